# SPDX-License-Identifier: Apache-2.0
"""Weights by shared memory that a trainer changes when it should not."""

import unittest

from stand_in import new_engine, new_tensors, offer, update

from weight_block import WeightBlock


class Rewritten(unittest.TestCase):
    def setUp(self):
        self.engine = new_engine()
        self.old, self.new = new_tensors(1), new_tensors(2)
        with WeightBlock(self.old) as block:
            self.assertEqual(update(self.engine, block.info())["digest"], block.digest)

    def expect_repaired(self):
        with WeightBlock(self.new) as block:
            status = update(self.engine, block.info())
            self.assertEqual((status["state"], status["digest"]), ("serving", block.digest))
        self.assertTrue(all(self.engine.model[name].equal(self.new[name]) for name in self.new))

    def test_bytes_written_between_staging_and_finish_are_a_mixture(self):
        for name in (min(self.new), max(self.new)):
            with WeightBlock(self.new) as block:
                self.assertEqual(offer(self.engine, block.info())["state"], "staged")
                block.flip(name)
                self.engine.finish_weight_update()
                status = self.engine.status()
            self.assertEqual(status["state"], "poisoned")
            self.assertEqual(status["error"]["code"], "digest-mismatch")
            self.assertTrue(status["error"]["where"].endswith(name))
            self.assertIsNone(status["digest"])
            self.expect_repaired()

    def test_bytes_written_while_weights_are_loaded_are_a_mixture(self):
        with WeightBlock(self.new) as block:
            last = max(self.new)

            def spoil(tensors):
                for i, (name, tensor) in enumerate(tensors):
                    if i == 3:
                        block.flip(last)
                    yield name, tensor

            self.engine.model.fault = spoil
            status = update(self.engine, block.info())
        del self.engine.model.fault
        self.assertEqual((status["state"], status["error"]["code"]),
                         ("poisoned", "digest-mismatch"))
        self.expect_repaired()

    def test_a_block_that_is_begun_anew_while_weights_are_loaded_is_a_mixture(self):
        with WeightBlock(self.new) as block:
            def spoil(tensors):
                yield from tensors
                block.mark_unwritten()

            self.engine.model.fault = spoil
            status = update(self.engine, block.info())
        del self.engine.model.fault
        self.assertEqual((status["state"], status["error"]["code"]), ("poisoned", "bad-image"))
        self.expect_repaired()


if __name__ == "__main__":
    unittest.main()
