#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the sums of the kernels' inner loops in registers, for every vector target that is built.

    python3 tools/check_kernels.py [--list] FOLDER|OBJECT…

Reads the machine code (objdump) of the kernels' object files and looks at each innermost loop that
does vector arithmetic. A vector that such a loop stores to a fixed place of the stack is a spill:
the sums of a tile do not fit the registers, or the compiler did not see that they do. A product
that stores any vector in its innermost loop keeps its sums in memory altogether, and it may not
read anything from the stack either; other loops may read constants there. Spills can cost a kernel
three quarters of its speed, and no test of values can see it. Exit status 1 and one line a loop;
--list prints every loop.
"""
import argparse
import pathlib
import re
import subprocess
import sys

# The files whose inner loops are the hot paths, and the functions of each that are products: there
# a multiply-add's loop stores nothing. The others update memory by design, such as a state.
KERNELS = {
    "panel_product": r"multiply_group",
    "attention": r"::(multiply|score_rows)<",
    "attention_backward": r"::multiply<",
    "gated_delta": None,
    "gated_delta_backward": None,
    "token_logprob": None,
}
# A loop with less vector arithmetic folds a rest or moves data; time does not go there.
FEWEST_OPERATIONS = 4

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*?)\s*(?:#.*)?$")
TARGET = re.compile(r"^([0-9a-f]+)(?: <.*>)?$")
VECTOR = re.compile(r"%[xyz]mm\d+")
ARITHMETIC = re.compile(r"^v?(fn?m(add|sub)\d+|add|sub|mul|max|min|dpbf16)p[sd]$")
MULTIPLY_ADD = re.compile(r"^v(fn?m(add|sub)\d+|dpbf16)ps$")
STORE = re.compile(r"^v?mov(ap|up|dqa|dqu|nt)\w* %[xyz]mm\d+,\S*\(")
# A place of the stack that does not move with an index.
FIXED = re.compile(r"(?<![\w,])-?(?:0x[0-9a-f]+)?\(%(rsp|rbp)\)")
# Highway's namespace of a vector target.
VECTOR_TARGET = re.compile(r"(N_\w+)::")


def functions_of(text):
    """Yields (name, [(address, mnemonic, operands)]) for each function of a disassembly."""
    name, code = None, []
    for line in text.splitlines():
        head = FUNCTION.match(line)
        if head:
            if code:
                yield name, code
            name, code = head.group(1), []
        elif name and (found := INSTRUCTION.match(line)):
            code.append((int(found.group(1), 16), found.group(2), found.group(3)))
    if code:
        yield name, code


def blocks_of(code):
    """The basic blocks of a function as (first, end) indices, and the successors of each."""
    index = {address: i for i, (address, _, _) in enumerate(code)}

    def jump_of(i):
        to = TARGET.match(code[i][2]) if code[i][1].startswith("j") else None
        return index.get(int(to.group(1), 16)) if to else None

    ends = [i for i, (_, mnemonic, _) in enumerate(code) if mnemonic.startswith(("j", "ret"))]
    heads = {0, *(i + 1 for i in ends), *(to for i in ends if (to := jump_of(i)) is not None)}
    heads = sorted(head for head in heads if head < len(code))
    blocks = list(zip(heads, heads[1:] + [len(code)]))
    number = {first: b for b, (first, _) in enumerate(blocks)}
    successors = []
    for b, (_, end) in enumerate(blocks):
        to, mnemonic = jump_of(end - 1), code[end - 1][1]
        after = set() if to is None else {number[to]}
        if mnemonic not in ("jmp", "ret") and b + 1 < len(blocks):
            after.add(b + 1)
        successors.append(after)
    return blocks, successors


def components_of(nodes, successors):
    """The strongly connected components that hold a cycle: Tarjan's algorithm, no recursion."""
    order, low, stack, on_stack, found = {}, {}, [], set(), []
    for root in nodes:
        if root in order:
            continue
        work = [(root, iter(successors[root] & nodes))]
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for to in rest:
                if to not in order:
                    order[to] = low[to] = len(order)
                    stack.append(to)
                    on_stack.add(to)
                    work.append((to, iter(successors[to] & nodes)))
                    break
                if to in on_stack:
                    low[node] = min(low[node], order[to])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    component = set()
                    while node not in component:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.add(member)
                    if len(component) > 1 or node in successors[node]:
                        found.append(component)
    return found


def innermost_loops(code):
    """Yields the instructions of each loop that holds no other one."""
    blocks, successors = blocks_of(code)
    pending = [(set(range(len(blocks))), successors)]
    while pending:
        nodes, edges = pending.pop()
        for loop in components_of(nodes, edges):
            entries = {to for node in range(len(blocks)) if node not in loop
                       for to in edges[node] & loop}
            entries = entries or {min(loop)}
            inner = [after - entries for after in edges]
            if components_of(loop, inner):
                pending.append((loop, inner))
            else:
                yield [line for b in sorted(loop) for line in code[blocks[b][0]:blocks[b][1]]]


def faults_of(body, is_product):
    """The loop's vector moves that should not be there, and how much it computes."""
    operations = sum(bool(ARITHMETIC.match(mnemonic)) for _, mnemonic, _ in body)
    # A base register that the loop changes is a pointer, not the frame.
    moving = {r for _, m, o in body for r in ("rsp", "rbp")
              if o.endswith(f",%{r}") or (m in ("inc", "dec") and o == f"%{r}")}
    places = [line for line in body
              if VECTOR.search(line[2]) and (found := FIXED.search(line[2]))
              and found.group(1) not in moving]
    is_store = [bool(STORE.match(f"{mnemonic} {operands}")) for _, mnemonic, operands in places]
    if is_product and any(MULTIPLY_ADD.match(mnemonic) for _, mnemonic, _ in body):
        return places + [line for line in body if STORE.match(f"{line[1]} {line[2]}")], operations
    faults = places if any(is_store) else []
    return faults, operations


def objects_of(paths):
    for path in map(pathlib.Path, paths):
        if path.is_file():
            yield path
        else:
            for kernel in KERNELS:
                yield from sorted(path.rglob(f"cpu/{kernel}.cpp.o"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("paths", nargs="+", metavar="FOLDER|OBJECT")
    arguments = parser.parse_args()
    objects = list(objects_of(arguments.paths))
    failed, num_loops, targets = 0, 0, set()
    for path in objects:
        products = KERNELS[path.name.removesuffix(".cpp.o")]
        num_products = 0
        text = subprocess.run(["objdump", "-dC", "--no-show-raw-insn", str(path)], check=True,
                              capture_output=True, text=True).stdout
        for name, code in functions_of(text):
            target = VECTOR_TARGET.search(name)
            is_product = bool(products and re.search(products, name))
            if not target or target.group(1) == "N_SCALAR":
                continue
            for body in innermost_loops(code):
                faults, operations = faults_of(body, is_product)
                if operations < FEWEST_OPERATIONS and not (faults and is_product):
                    continue
                num_loops += 1
                num_products += is_product
                targets.add(target.group(1))
                where = f"{path.name}: {name.replace('(anonymous namespace)::', '')}"
                if arguments.list:
                    print(
                        f"{where} at {body[0][0]:x}: {operations} operations, {len(faults)} moves")
                if faults:
                    failed += 1
                    print(
                        f"{where}: expected sums in registers, got {len(faults)} moves of vectors "
                        "in the "
                          f"loop at {body[0][0]:x} of {operations} operations, the first of them "
                          f"{faults[0][1]} {faults[0][2]} at {faults[0][0]:x}", file=sys.stderr)
        if products and not num_products:
            failed += 1
            print(f"{path.name}: expected loops in functions {products}, got none", file=sys.stderr)
    print(
        f"check_kernels: {num_loops} loops of {', '.join(sorted(targets)) or 'no target'}, "
        f"{failed} faults")
    return 1 if failed or not num_loops else 0


if __name__ == "__main__":
    sys.exit(main())
