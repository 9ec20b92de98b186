//! glibc's allocator, told to give memory back.
#![allow(unsafe_code, reason = "a setting of the C library's, made before there is a second thread")]

/// Blocks of this size and more are mapped one by one, and gone when they are freed. A usual batch is smaller: to map
/// each anew (from 512 KiB) made a record 18 % dearer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 4 * 1024 * 1024;
/// More than this at the end of the heap is given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_BYTES: i32 = 16 * 1024 * 1024;

/// By itself glibc has eight heaps a processor, and raises the size from which blocks are mapped to that of the
/// largest block that was freed, up to 32 MiB: records that unpack to megabytes left heaps full of holes, which no
/// one else in the container could use. Elsewhere nothing changes.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let heaps = i32::try_from(processors.max(2)).unwrap_or(i32::MAX);
        let settings =
            [(libc::M_ARENA_MAX, heaps), (libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, TRIM_BYTES)];
        for (name, value) in settings {
            // SAFETY: the names are glibc's own; one that it does not take changes nothing.
            unsafe { libc::mallopt(name, value) };
        }
    }
}
