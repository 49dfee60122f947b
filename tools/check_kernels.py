#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the sums of the kernels' inner loops in registers, for every vector target that is built.

    python3 tools/check_kernels.py [--list] FOLDER|OBJECT…

Reads the machine code (objdump) of the kernels' object files and looks at each innermost loop that
does vector arithmetic. A vector that such a loop stores to a fixed place of the stack is a spill:
the sums of a tile do not fit the registers, or the compiler did not see that they do. A product
that stores any vector in its innermost loop keeps its sums in memory altogether, and it may not
read anything from the stack either; other loops may read constants there. A loop that adds up
exponentials, which take dozens of operations each, may let a sum rest in memory once in a while.
Spills can cost a kernel three quarters of its speed, and no test of values can see it.

Every kernel is looked at for every vector target that was built. The scalar target is not: it has
no vectors, its code is plain C++, and nobody's speed rests on it. Loops that call a function are
not either, products excepted: no vector outlives a call in a register.

Exit status 1 and one line a loop or missing kernel, or one that says why the machine code cannot be
read; --list prints every loop.
"""
import argparse
import pathlib
import re
import subprocess
import sys

# The files whose inner loops are the hot paths, and the functions of each that are products: there
# a multiply-add's loop stores nothing. The others update memory by design, such as a state.
PRODUCTS = {
    "panel_product": r"multiply_group",
    "attention": r"::(multiply|score_rows)<",
    "attention_backward": r"::multiply<",
    "gated_delta": None,
    "gated_delta_backward": None,
    "token_logprob": None,
}
# Functions whose loops only add up, wherever they store: a store in so many operations is none.
SUMS = r"::sum_exp<"
OPERATIONS_OF_A_STORE = 32
SCALAR_TARGETS = ("N_SCALAR", "N_EMU128")
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
FIXED = re.compile(r"\(%(rsp|rbp)\)")
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
            # One entry alone is the head: what is jumped into from outside may be a loop inside.
            inner = [after - {min(entries or loop)} for after in edges]
            if components_of(loop, inner):
                pending.append((loop, inner))
            else:
                yield [line for b in sorted(loop) for line in code[blocks[b][0]:blocks[b][1]]]


def faults_of(body, is_product, is_sum):
    """The loop's vector moves that should not be there, and how much it computes."""
    operations = sum(bool(ARITHMETIC.match(mnemonic)) for _, mnemonic, _ in body)
    stores = [line for line in body if STORE.match(f"{line[1]} {line[2]}")]
    # A base register that the loop changes is a pointer, not the frame.
    moving = {r for _, m, o in body for r in ("rsp", "rbp")
              if o.endswith(f",%{r}") or (m in ("inc", "dec") and o == f"%{r}")}
    places = [line for line in body
              if VECTOR.search(line[2]) and (found := FIXED.search(line[2]))
              and found.group(1) not in moving]
    if is_product and any(MULTIPLY_ADD.match(mnemonic) for _, mnemonic, _ in body):
        return stores + [line for line in places if line not in stores], operations
    if is_sum:
        return stores if len(stores) * OPERATIONS_OF_A_STORE > operations else [], operations
    if any(mnemonic.startswith("call") for _, mnemonic, _ in body):
        return [], operations
    return places if any(line in stores for line in places) else [], operations


def objects_of(paths):
    """The object files, and a line for each kernel that a folder lacks."""
    objects, missing = [], []
    for path in map(pathlib.Path, paths):
        if path.is_file():
            objects.append(path)
            continue
        for kernel in PRODUCTS:
            found = sorted(path.rglob(f"cpu/{kernel}.cpp.o"))
            objects += found
            if not found:
                missing.append(f"{path}: expected an object file cpu/{kernel}.cpp.o, got none")
    return objects, missing


def disassembly_of(path):
    try:
        text = subprocess.run(["objdump", "-dC", "--no-show-raw-insn", str(path)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout
    except FileNotFoundError:
        raise SystemExit("check_kernels: expected the program objdump (package binutils), got none")
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"check_kernels: {path}: objdump failed with status {error.returncode}")
    if "file format elf64-x86-64" not in text:
        raise SystemExit(f"check_kernels: {path}: expected machine code of x86-64, got other code")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("paths", nargs="+", metavar="FOLDER|OBJECT")
    arguments = parser.parse_args()
    objects, faults_found = objects_of(arguments.paths)
    num_loops = 0
    targets_of = {}
    for path in objects:
        products = PRODUCTS[path.name.removesuffix(".cpp.o")]
        num_products = 0
        targets = targets_of[path] = set()
        for name, code in functions_of(disassembly_of(path)):
            target = VECTOR_TARGET.search(name)
            if not target or target.group(1) in SCALAR_TARGETS:
                continue
            is_product = bool(products and re.search(products, name))
            is_sum = bool(re.search(SUMS, name))
            for body in innermost_loops(code):
                faults, operations = faults_of(body, is_product, is_sum)
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
                    faults_found.append(
                        f"{where}: expected sums in registers, got {len(faults)} moves of vectors "
                        f"in the loop at {body[0][0]:x} of {operations} operations, the first of "
                        f"them {faults[0][1]} {faults[0][2]} at {faults[0][0]:x}")
        if products and not num_products:
            faults_found.append(
                f"{path.name}: expected loops in functions {products}, got none")
    all_targets = set().union(*targets_of.values())
    for path, targets in targets_of.items():
        for target in sorted(all_targets - targets):
            faults_found.append(f"{path.name}: expected loops for {target}, got none")
    for fault in faults_found:
        print(fault, file=sys.stderr)
    print(
        f"check_kernels: {num_loops} loops of {', '.join(sorted(all_targets)) or 'no target'}, "
        f"{len(faults_found)} faults")
    return 1 if faults_found or not num_loops else 0


if __name__ == "__main__":
    sys.exit(main())
