# SPDX-License-Identifier: GPL-2.0-only
"""Functions that report, wait or allocate for others and so are never to blame.

Three lists as regular expressions over whole function names: HELPERS stand between a defect and
its report; WRAPPERS print a WARN about their caller, so that even the header's place is not the
defect's; ALLOCATORS hand out memory for others.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|localalias)(?:\.\d+)?(?=\.|$)")
_BPF_TAG = re.compile(r"^bpf_prog_[0-9a-f]{16}_?")

ALLOCATORS = (
    r"_*do_kmalloc\w*|kmemleak_\w+|create_object|__create_object|__link_object|set_track_prepare|kasan_save_\w+"
    r"|_*kv?z?malloc\w*|_*k[vc]?z?alloc_\w+|_*kv?calloc\w*|_*kv?malloc_array\w*|_*kv?realloc\w*"
    r"|_*kvz?alloc\w*|_*kzalloc\w*|_*kmem_cache_(?:z?alloc)\w*|_*kmalloc_obj\w*"
    r"|_*slab_alloc\w*|slab_post_alloc_hook|slab_pre_alloc_hook|new_slab|allocate_slab|alloc_slab_page"
    r"|refill_\w+|alloc_from_\w+|alloc_full_sheaf|_*alloc_percpu\w*|_*pcpu_(?:alloc|mem|create|populate)\w*"
    r"|_*pcpu_get_\w+|pcpu_\w+"
    r"|_*vz?malloc\w*|_*vzalloc\w*|_*vcalloc\w*|_*get_vm_area\w*|alloc_vmap_area|vm_area_alloc\w*"
    r"|_*alloc_pages\w*|_*alloc_frozen_pages\w*|_*get_free_pages\w*|get_zeroed_page\w*|_*folio_alloc\w*"
    r"|get_page_from_freelist|kstrn?dup\w*|kmemdup\w*|kasprintf|kvasprintf|memdup_user\w*|vmemdup_user"
    r"|devm_k\w*alloc\w*|bpf_map_\w*alloc\w*|should_fail\w*|_*should_failslab|fail_dump|warn_alloc"
    r"|_*pcs_\w+|prepare_alloc_pages|_*alloc_object|_*kmemdup_\w+"
)
"""Allocators and what fault injection prints below them (mm/slub.c, mm/page_alloc.c, mm/percpu.c, mm/vmalloc.c,
mm/kmemleak.c, mm/util.c)."""

_REPORT = (
    r"_*dump_stack\w*|dump_backtrace\w*|show_stack\w*|_*show_\w*regs|show_trace\w*|arch_stack_walk\w*|kunwind_\w+"
    r"|arch_dump_stack|print_report|_*kasan_\w+|_*asan_\w+"
    r"|_*hwasan_\w+|_*kcsan_\w+|kfence_report_error|check_region_inline|check_memory_region\w*"
    r"|print_address_description\w*|_*warn|_*warn_printk|warn_slowpath_\w+|_*WARN_trap|report_bug\w*"
    r"|_*report_bug|handle_bug|handle_break|do_trap_\w+|handle_exception|handle_invalid_op|(?:asm_)?exc_\w+|die|die_\w+|_*die\w*|v?panic|nmi_panic"
    r"|_*might_(?:sleep|resched|fault)\w*|_*schedule_bug|__cant_\w+|_*ubsan_\w+|check_panic_on_warn"
    r"|bad_page|free_page_is_bad_report|free_page_is_bad|check_new_page_bad"
    r"|debug_(?:print_object|object_\w+|check_no_obj_freed|check_no_locks_\w+|smp_processor_id)"
    r"|check_preemption_disabled"
)
_LOCKDEP = (
    r"print_(?:circular|deadlock|usage|irq_inversion|bad_irq_dependency|unlock_imbalance|lock_\w+|freed_lock"
    r"|held_locks)\w*|print_\w+_bug\w*|check_(?:noncircular|prev\w*|deadlock|irq_usage|wait_context|usage\w*)"
    r"|check_chain_key|validate_chain|_*lock_acquire\w*|_*lock_release\w*|lock_is_held\w*|lockdep_\w+"
    r"|mark_(?:lock|usage|held)\w*|register_lock_class|assign_lock_key|look_up_lock_class"
    r"|rcu_lockdep_\w+|rcu_read_lock_\w*held\w*|valid_state|_*trace_hardirqs_o\w+|warn_bogus_irq_restore"
)
_LOCKS = (
    r"_*(?:do_)?raw_(?:spin|read|write)_\w+|_*spin_(?:try)?(?:un)?lock\w*|native_queued_\w+|queued_\w+lock\w*"
    r"|_*mutex_(?:try)?lock\w*|down_(?:read|write)\w*|_*down\w*_common|rwsem_down_\w+|percpu_down_\w+"
    r"|_*percpu_rwsem_\w+|virt_spin_lock|pv_\w+lock\w*|smp_call_function\w*|csd_lock_wait|cpu_relax"
    # Inlined wherever interrupts are turned off and on (include/linux/irqflags.h, arch/*/include/asm/irqflags.h).
    r"|_*(?:arch_|raw_)?local_(?:irq|save|daif)\w*|native_(?:save|restore)_fl|native_irq_\w+|arch_irqs_\w+"
)
_WAIT = (
    r"_*schedule(?:_loop)?|schedule_\w+|io_schedule\w*|preempt_schedule\w*|context_switch|_*switch_to\w*"
    r"|_*cond_resched\w*|wait_for_completion\w*|(?:do_|_*)wait_for_common|_*wait_rcu_gp\w*|_*synchronize_rcu\w*"
)
_GENERIC = (
    r"_*list_(?:add|del)\w*|_*hlist_(?:add|del)\w*|refcount_\w+|_*refcount_\w+|_*mem(?:cpy|set|move|cmp)\w*"
    r"|_*str(?:len|cpy|cmp|nlen|scpy|ncpy|chr)\w*|rep_\w+|clear_page\w*|copy_page\w*|_*copy_(?:to|from)_user\w*"
    r"|kfree|_*kfree\w*|kvfree|vfree|kmem_cache_(?:free|destroy)\w*|_*slab_free\w*|object_err|slab_err|_*slab_err"
    r"|check_object|check_slab|check_bytes_and_report|slab_pad_check|slab_fix|(?:alloc|free)_debug_processing"
    r"|free_to_partial_list|alloc_single_from_\w+|free_percpu|_*fortify_\w+|usercopy_abort|_*check_object_size"
    r"|_*stack_chk_fail|_*read_once\w*|_*write_once\w*|_*fentry__|ftrace_\w+|kernel_text_address"
)
_TICK = (
    r"sched_show_task|dump_cpu_task|rcu_dump_cpu_stacks|_*print_(?:cpu|other_cpu)_stall\w*|check_cpu_stall"
    r"|rcu_pending|rcu_sched_clock_irq|update_process_times|tick_\w+|_*hrtimer_\w+|(?:asm_|_*)sysvec_\w+"
    r"|nmi_(?:cpu|trigger)_\w+|arch_trigger_\w+|watchdog_\w+|el1h?_\w+|_*el1_irq|vectors|gic_\w+|call_on_irq_stack"
    r"|do_interrupt_handler|arch_timer_handler\w*|handle_percpu_devid\w*|generic_handle_\w+|irq_exit\w*"
    r"|handle_riscv_irq|riscv_(?:intc|timer)_\w+|do_irq|handle_irq_event\w*|_*irq_exit_rcu|local_apic_timer_interrupt|asm_common_interrupt|common_interrupt"
)

_helpers = re.compile(f"{_REPORT}|{_LOCKDEP}|{_LOCKS}|{_WAIT}|{_GENERIC}|{_TICK}|{ALLOCATORS}")
_registered: set[str] = set()
_WRAPPERS = re.compile(
    r"refcount_\w+|_*list_\w*valid\w*|warn_bogus_irq_restore|kmem_cache_destroy|object_err|_*slab_err|slab_err|debug_print_object"
    r"|usercopy_abort|_*fortify_\w+|lockdep_\w+|_*warn\w*|_*WARN_trap|_*kasan_\w+|_*asan_\w+|mem\w+|kfree|kvfree"
    r"|kmem_cache_free\w*|free_percpu|str\w+"
)
_ALLOCATORS = re.compile(ALLOCATORS)


def register(patterns: Iterable[str]) -> None:
    """Add a suite's functions, as regular expressions, that only report for others."""
    global _helpers
    new = [pattern for pattern in patterns if pattern not in _registered]
    if new:
        _registered.update(new)
        _helpers = re.compile("|".join((_helpers.pattern, *new)))
        is_helper.cache_clear()


@functools.cache
def base_name(function: str) -> str:
    """A function's name as the source has it: no compiler suffix, no hash of a BPF program."""
    return _BPF_TAG.sub("bpf_prog_", _SUFFIX.sub("", function))


@functools.cache
def is_helper(function: str) -> bool:
    """Whether the function is only between a defect and its report."""
    return _helpers.fullmatch(base_name(function)) is not None


@functools.cache
def is_wrapper(function: str) -> bool:
    """Whether a WARN in this function is about its caller."""
    return _WRAPPERS.fullmatch(base_name(function)) is not None


@functools.cache
def is_allocator(function: str) -> bool:
    """Whether the function allocates for its caller."""
    return _ALLOCATORS.fullmatch(base_name(function)) is not None
