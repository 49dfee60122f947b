# SPDX-License-Identifier: Apache-2.0
"""Does tools/check_kernels.py see a spill when there is one? Loops as objdump prints them."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_kernels  # noqa: E402


def body_of(*lines):
    return [(address, *line.split(" ")) for address, line in enumerate(lines)]


def faults_of(body, is_product=False, is_sum=False):
    return len(check_kernels.faults_of(body, is_product, is_sum)[0])


MULTIPLY_ADDS = ["vfmadd231ps %ymm1,%ymm2,%ymm3"] * 8


class Faults(unittest.TestCase):
    def test_registers_alone_are_right(self):
        for is_product in (False, True):
            self.assertEqual(faults_of(body_of(*MULTIPLY_ADDS), is_product), 0)

    def test_a_store_to_a_fixed_place_of_the_stack_is_a_spill(self):
        for store in ("vmovaps %ymm7,0x80(%rsp)", "vmovups %zmm31,(%rsp)",
                      "vmovaps %ymm7,-0x40(%rbp)", "vmovdqa %xmm0,0x10(%rsp)"):
            for is_product in (False, True):
                self.assertEqual(faults_of(body_of(*MULTIPLY_ADDS, store), is_product), 1, store)

    def test_a_spilled_sum_is_two_moves(self):
        body = body_of("vmovaps 0x40(%rsp),%ymm3", *MULTIPLY_ADDS, "vmovaps %ymm3,0x40(%rsp)")
        self.assertEqual(faults_of(body), 2)

    def test_products_alone_may_not_read_the_stack(self):
        body = body_of("vmulps 0x80(%rsp),%ymm1,%ymm5", *MULTIPLY_ADDS)
        self.assertEqual(faults_of(body), 0)
        self.assertEqual(faults_of(body, is_product=True), 1)

    def test_products_store_nowhere(self):
        body = body_of(*MULTIPLY_ADDS, "vmovaps %zmm1,0x100(%rsp,%rcx,4)",
                       "vmovups %ymm1,(%rdi)")
        self.assertEqual(faults_of(body, is_product=True), 2)
        # What updates memory does.
        self.assertEqual(faults_of(body), 0)

    def test_a_frame_register_that_moves_is_a_pointer(self):
        body = body_of(*MULTIPLY_ADDS, "vmovups %ymm1,(%rbp)", "add $0x20,%rbp")
        self.assertEqual(faults_of(body), 0)

    def test_sums_may_rest_once_in_a_while(self):
        rest = "vmovaps %ymm2,(%r8,%rcx,4)"
        self.assertEqual(faults_of(body_of(*MULTIPLY_ADDS * 8, rest), is_sum=True), 0)
        self.assertEqual(faults_of(body_of(*MULTIPLY_ADDS * 8, rest, rest, rest), is_sum=True), 3)

    def test_loops_that_call_are_no_inner_loops_but_products_are(self):
        body = body_of(*MULTIPLY_ADDS, "vmovaps %ymm2,0x40(%rsp)", "call 15bd")
        self.assertEqual(faults_of(body), 0)
        self.assertEqual(faults_of(body, is_product=True), 1)


# A loop over rows inside one over columns that fills two places of the stack first. The rows' loop
# is entered at its middle (14), and by a jump from before the columns' (4).
LOOP_IN_LOOP = """
0000000000000000 <void N_AVX2::walk<float>(float*)>:
   0:\tcmp    %rsi,%rax
   4:\tje     14 <x>
   8:\tvmovaps %ymm7,0x80(%rsp)
   c:\tjmp    14 <x>
  10:\tmov    %rcx,%rax
  14:\tvmulps 0x80(%rsp),%ymm1,%ymm5
  18:\tvfmadd231ps %ymm1,%ymm2,%ymm3
  1c:\tvfmadd231ps %ymm1,%ymm2,%ymm4
  20:\tvaddps %ymm5,%ymm3,%ymm3
  24:\tjl     10 <x>
  28:\tjne    8 <x>
  2c:\tret
"""


class Loops(unittest.TestCase):
    def test_a_loop_that_is_entered_twice_is_found_alone(self):
        (name, code), = check_kernels.functions_of(LOOP_IN_LOOP)
        self.assertEqual(check_kernels.VECTOR_TARGET.search(name).group(1), "N_AVX2")
        body, = check_kernels.innermost_loops(code)
        self.assertEqual([address for address, _, _ in body], list(range(0x10, 0x28, 4)))
        self.assertEqual(faults_of(body), 0)

    def test_a_missing_object_is_told(self):
        objects, missing = check_kernels.objects_of([pathlib.Path(__file__).parent])
        self.assertEqual(objects, [])
        self.assertEqual(len(missing), len(check_kernels.PRODUCTS))
        self.assertIn("cpu/token_logprob.cpp.o", missing[-1])


if __name__ == "__main__":
    unittest.main()
