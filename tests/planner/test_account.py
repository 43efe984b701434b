"""Cycles, bytes, kernels and exchanges of small programs, counted by hand."""

import importlib.util
import os

import pytest

from dn_jax.planner import account, program

# Of [128, 12] bfloat16 with 128 in the lanes: 12 takes 16.
MAP = 128 * 16 * 2
LAID_OUT = "{0,1:T(8,128)(2,1)}"
FAST = "{0,1:T(8,128)(2,1)S(1)}"


def of(entry, others=""):
  return program.read(f"HloModule m\n{others}\nENTRY %main (x: f32[]) -> f32[] {{\n{entry}\n}}\n")


def cycles(n):
  return f'backend_config={{"window_config":{{"estimated_cycles":"{n}"}}}}'


def test_operands_and_results_are_counted_by_where_they_lie_and_free_instructions_are_not():
  found = of(
    f"""
    %x = bf16[128,12]{LAID_OUT} parameter(0)
    %w = bf16[128,12]{FAST} parameter(1)
    %one = f32[]{{:T(128)}} constant(1)
    %cast = bf16[128,12]{LAID_OUT} bitcast(%x)
    %made = (bf16[128,12]{FAST}, f32[12]{{0:T(128)}}) fusion(%cast, %w), kind=kOutput, calls=%f, {cycles(70)}
    %first = bf16[128,12]{FAST} get-tuple-element(%made), index=0
    %room = bf16[128,12]{LAID_OUT} custom-call(), custom_call_target="AllocateBuffer"
    ROOT %sum = bf16[128,12]{LAID_OUT} add(%first, %w), {cycles(5)}
    """,
    f"""
%f (a: f32[], b: f32[]) -> f32[] {{
  %a = bf16[128,12]{LAID_OUT} parameter(0)
  %b = bf16[128,12]{FAST} parameter(1)
  %c = bf16[128,12]{LAID_OUT} multiply(%a, %b), {cycles(1000)}
  %d = f32[12]{{0:T(128)}} reduce(%c), to_apply=%g
  ROOT %t = (bf16[128,12]{FAST}, f32[12]{{0:T(128)}}) tuple(%c, %d)
}}
""",
  )
  # HBM: x is read, 12 sums and the last result are written. Fast: w twice, the fusion's first result written and read.
  assert account.work(found) == account.Work(75, MAP + 512 + MAP, 4 * MAP)


def test_of_a_sliced_operand_the_slices_are_read():
  wide = "bf16[128,64]{0,1:T(8,128)(2,1)}"
  found = of(
    f"""
    %x = {wide} parameter(0)
    %n = s32[]{{:T(128)}} parameter(1)
    ROOT %made = bf16[128,12]{FAST} fusion(%x, %n), kind=kLoop, calls=%f
    """,
    f"""
%within (a: f32[]) -> f32[] {{
  %a = {wide} parameter(0)
  ROOT %same = {wide} bitcast(%a)
}}

%f (p: f32[], n: f32[]) -> f32[] {{
  %p = {wide} parameter(0)
  %n = s32[]{{:T(128)}} parameter(1)
  %q = {wide} fusion(%p), kind=kLoop, calls=%within
  %front = bf16[128,12]{LAID_OUT} slice(%q), slice={{[0:128], [0:12]}}
  %back = bf16[128,12]{LAID_OUT} dynamic-slice(%p, %n, %n), dynamic_slice_sizes={{128,12}}
  ROOT %sum = bf16[128,12]{FAST} add(%front, %back)
}}
""",
  )
  # Two slices of 64 channels, and the place of one of them.
  assert account.work(found) == account.Work(0, 2 * MAP + 512, MAP)
  whole = of(
    f"    %x = {wide} parameter(0)\n    ROOT %made = {wide} fusion(%x), kind=kLoop, calls=%f",
    f"""
%f (p: f32[]) -> f32[] {{
  %p = {wide} parameter(0)
  %front = bf16[128,12]{LAID_OUT} slice(%p), slice={{[0:128], [0:12]}}
  %padded = {wide} pad(%front), padding=0_0x0_52
  ROOT %sum = {wide} add(%p, %padded)
}}
""",
  )
  # It is also read as it is: once, whole.
  assert account.work(whole).hbm == 2 * 128 * 64 * 2
  same = of(
    f"    %x = {wide} parameter(0)\n    ROOT %made = {wide} fusion(%x), kind=kLoop, calls=%f",
    f"\n%f (p: f32[]) -> f32[] {{\n  %p = {wide} parameter(0)\n  ROOT %same = {wide} bitcast(%p)\n}}\n",
  )
  assert account.work(same).hbm == 2 * 128 * 64 * 2


def test_a_buffer_that_is_updated_in_place_is_written_in_part():
  wide = "bf16[128,64]{0,1:T(8,128)(2,1)}"
  fused = f"""
%f (p: f32[], q: f32[], n: f32[]) -> f32[] {{
  %p = {wide} parameter(0)
  %q = bf16[128,12]{LAID_OUT} parameter(1)
  %n = s32[] parameter(2)
  %old = bf16[128,12]{LAID_OUT} slice(%p), slice={{[0:128], [12:24]}}
  %sum = bf16[128,12]{LAID_OUT} add(%old, %q)
  ROOT %new = {wide} dynamic-update-slice(%p, %sum, %n, %n)
}}
"""
  operands = f"""
    %x = {wide} parameter(0)
    %y = bf16[128,12]{FAST} parameter(1)
    %n = s32[] parameter(2)
"""
  found = of(operands + f"    ROOT %made = {wide} fusion(%x, %y, %n), kind=kLoop, calls=%f", fused)
  assert account.work(found) == account.Work(0, MAP + MAP + 4, MAP)
  alone = of(operands + f"    ROOT %new = {wide} dynamic-update-slice(%x, %y, %n, %n)")
  assert account.work(alone) == account.Work(0, MAP + 4 + 4, MAP)
  # Where what it makes is read in the same fusion, all of the buffer is.
  again = fused.replace("ROOT %new", "%new").replace("\n}\n", f"\n  ROOT %neg = {wide} negate(%new)\n}}\n")
  assert account.work(of(operands + f"    ROOT %made = {wide} fusion(%x, %y, %n), kind=kLoop, calls=%f", again)) == (
    account.Work(0, 2 * 128 * 64 * 2 + 4, MAP)
  )


def test_an_asynchronous_pair_counts_once():
  wide = "bf16[128,64]{0,1:T(8,128)(2,1)}"
  found = of(
    f"""
    %x = {wide} parameter(0)
    %s = (({wide}), bf16[128,12]{FAST}, s32[]{{:S(2)}}) slice-start(%x), slice={{[0:128], [0:12]}}
    %c = ({wide[:-1]}S(1)}}, {wide}, u32[]{{:S(2)}}) copy-start(%x)
    %sd = bf16[128,12]{FAST} slice-done(%s)
    ROOT %cd = {wide[:-1]}S(1)}} copy-done(%c)
    """
  )
  assert account.work(found) == account.Work(0, MAP + 128 * 64 * 2, MAP + 128 * 64 * 2)


BODY = f"""
%body (p: f32[]) -> f32[] {{
  %p = (bf16[128,12]{FAST}) parameter(0)
  %x = bf16[128,12]{FAST} get-tuple-element(%p), index=0
  %y = bf16[128,12]{FAST} negate(%x), {cycles(30)}
  ROOT %t = (bf16[128,12]{FAST}) tuple(%y)
}}

%nothing (p: f32[]) -> f32[] {{
  ROOT %p = (bf16[128,12]{FAST}) parameter(0)
}}
"""


def test_a_loops_body_counts_once_and_a_conditional_with_its_cheapest_branch():
  whole = f"(bf16[128,12]{FAST})"
  loop = f'%l = {whole} while(%t), condition=%c, body=%body, backend_config={{"known_trip_count":{{"n":"9"}}}}'
  found = of(f"    %t = {whole} parameter(0)\n    {loop}\n    %m = {whole} call(%l), to_apply=%body", BODY)
  assert account.work(found) == account.Work(60, 0, 4 * MAP)
  assert account.kernels(found) == {"negate": 10}
  assert found.loops == 1
  branches = f"%k = {whole} conditional(%n, %t, %t), branch_computations={{%body, %nothing}}"
  found = of(f"    %t = {whole} parameter(0)\n    %n = s32[] parameter(1)\n    {branches}", BODY)
  assert account.work(found) == account.Work()
  assert account.kernels(found) == {}


def test_a_gpus_kernels_are_counted_by_kind():
  found = of(
    """
    %x = bf16[8,4]{1,0} parameter(0)
    %zeros = f32[8]{0} fusion(), kind=kLoop, calls=%zeros.1
    %sums = f32[8]{0} fusion(%x), kind=kInput, calls=%sums.1
    %scaled = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%scaled.1
    %copied = bf16[8,4]{0,1} copy(%x)
    %product = (bf16[8,8]{1,0}, s8[1024]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul"
    %tritons = bf16[8,8]{1,0} fusion(%x), kind=kCustom, calls=%dot.1
    %conv = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%x, %x), custom_call_target="__cudnn$convBackwardFilter"
    %s = (f32[8]{0}, f32[8]{0}) all-reduce-start(%sums), to_apply=%add
    ROOT %d = f32[8]{0} all-reduce-done(%s)
    """,
    """
%zeros.1 () -> f32[] {
  %z = f32[] constant(0)
  ROOT %b = f32[8]{0} broadcast(%z), dimensions={}
}

%sums.1 (x: f32[]) -> f32[] {
  %x = bf16[8,4]{1,0} parameter(0)
  ROOT %r = f32[8]{0} reduce(%x, %x), dimensions={1}, to_apply=%add
}

%scaled.1 (x: f32[]) -> f32[] {
  %x = bf16[8,4]{1,0} parameter(0)
  ROOT %r = bf16[8,4]{1,0} multiply(%x, %x)
}

%dot.1 (x: f32[]) -> f32[] {
  %x = bf16[8,4]{1,0} parameter(0)
  ROOT %r = bf16[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}
}
""",
  )
  assert account.kernels(found) == {
    "convolution": 1,
    "copy": 1,
    "exchange": 1,
    "fusion": 1,
    "memset": 1,
    "product": 2,
    "reduction": 1,
  }


def test_exchanges_are_read_off_a_programs_text():
  found = of("""
    %x = f32[24]{0:T(128)} parameter(0)
    %a = f32[24]{0:T(128)S(1)} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
    %b = (bf16[3,3,48,12]{3,2,1,0}, s32[]) all-reduce(%x, %x), channel_id=2, to_apply=%add
    %c = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
    %d = f32[16]{0} all-gather-done(%c)
    ROOT %e = pred[7]{0} fusion(%a), kind=kLoop
  """)
  # As laid out: 24 numbers take a tile of 128. An asynchronous pair counts once, by what comes of it.
  assert account.exchanges(found) == {"all-reduce": (2, 128 * 4 + 3 * 3 * 48 * 12 * 2 + 4), "all-gather": (1, 64)}


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU's compiler, libtpu, is not installed")
def test_a_program_of_the_tpus_compiler_is_counted_as_by_hand():
  import fcntl
  import tempfile

  import jax
  import jax.numpy as jnp

  from dn_jax.planner import targets

  def updated(x, buffer):
    buffer = jax.lax.dynamic_update_slice(buffer, buffer[:, 256:384] * 2 + x, (0, 128))
    return buffer, jnp.sum(buffer[:, :128], 0)

  with open(os.path.join(tempfile.gettempdir(), "dn_jax-tests-libtpu.lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # One process at a time may use it.
    where = jax.sharding.SingleDeviceSharding(targets.target("v5e").devices[0])
    shapes = [jax.ShapeDtypeStruct((65536, width), jnp.bfloat16, sharding=where) for width in (128, 1024)]
    text = jax.jit(updated, donate_argnums=1).lower(*shapes).compile().as_text()
  work, part = account.work(program.read(text)), 65536 * 128 * 2
  # Read from HBM: x, the third part, the first part; written: the second. The sums are 128 numbers.
  assert work.hbm == pytest.approx(4 * part, rel=1e-3)
  # x and the third part pass through the fast memory, if the compiler likes.
  assert work.fast in (0, 4 * part)
  assert work.cycles > 0
