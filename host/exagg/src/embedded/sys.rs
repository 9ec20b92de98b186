//! Process control and the mock cluster's one setting that the safe binding does not have.
#![allow(unsafe_code, reason = "C interfaces; each use says why it is sound")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rdkafka_sys as sys;

/// Sets how long a new group waits for more members. False when the client has no mock cluster.
pub fn set_group_delay(client: *mut sys::rd_kafka_t, millis: i32) -> bool {
    // SAFETY: the client is alive (the caller holds it); the cluster is the client's own and
    // lives as long.
    unsafe {
        let cluster = sys::rd_kafka_handle_mock_cluster(client);
        if cluster.is_null() {
            return false;
        }
        sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, millis);
    }
    true
}

/// Makes the child a process group of its own (a Ctrl-C in the terminal goes to the host alone)
/// and, on Linux, ends it with the thread that starts it, however that ends.
pub fn end_with_parent(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only prctl and getppid are called, which are
    // async-signal-safe; nothing is allocated.
    unsafe {
        let parent = std::process::id();
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) == -1 {
                return Err(std::io::Error::last_os_error());
            }
            // The parent may be gone already.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

/// Sends a signal to a child of ours.
pub fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill takes two numbers; the pid is of a child that is not waited for yet.
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

/// True when this process is the superuser, whom PostgreSQL refuses.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
