"""The seccomp filter of an environment: an allow-list, compiled by libseccomp.

What is not listed answers ENOSYS, so that libraries fall back to older calls; what is refused on purpose answers
EPERM. ``clone3`` takes its flags in memory, where a filter cannot see them: ENOSYS makes libc use ``clone``.
"""

from __future__ import annotations

import errno
import socket
import tempfile

import pyseccomp

_ALLOWED = """
accept accept4 access alarm arch_prctl bind brk capget chdir chmod chown clock_getres clock_gettime clock_nanosleep
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait
epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate
fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
get_robust_list getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch ioctl ioprio_get kill lchown lgetxattr link linkat listen listxattr
llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore mkdir mkdirat mlock mlock2
mlockall mmap mprotect mremap msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages
removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_yield select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid
setfsuid setgid setitimer setpgid setpriority setregid setresgid setresuid setreuid set_robust_list setrlimit setsid
setsockopt set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice
stat statfs statx symlink symlinkat sync_file_range sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate
umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
""".split()

_REFUSED = """
acct add_key bpf chroot delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick init_module iopl
ioperm kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mknod mknodat mount mount_setattr
move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key setdomainname
setgroups sethostname setns set_mempolicy swapoff swapon sync syslog umount2 unshare userfaultfd vhangup
""".split()

# CLONE_NEW* in clone(2)'s first argument: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACES = 0x7E020000
# Of the internet families only these protocols: asking for SCTP or DCCP would load their modules into the kernel.
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
_NETLINK_ROUTE = 0
_PERSONALITIES = (0, 0xFFFFFFFF)  # the default, and asking


def compile_filter() -> bytes:
    """The filter as BPF instructions for this machine's architecture.

    Raises:
        OSError: libseccomp is missing; its message says so.
    """
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in _ALLOWED:
        _rule(program, pyseccomp.ALLOW, name)
    for name in _REFUSED:
        _rule(program, pyseccomp.ERRNO(errno.EPERM), name)
    no_namespaces = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _NEW_NAMESPACES, 0)
    _rule(program, pyseccomp.ALLOW, "clone", no_namespaces)
    _rule(program, pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.EQ, int(socket.AF_UNIX)))
    for family in _FAMILIES:
        for protocol in _PROTOCOLS:
            _rule(
                program,
                pyseccomp.ALLOW,
                "socket",
                pyseccomp.Arg(0, pyseccomp.EQ, int(family)),
                pyseccomp.Arg(2, pyseccomp.EQ, int(protocol)),
            )
    _rule(
        program,
        pyseccomp.ALLOW,
        "socket",
        pyseccomp.Arg(0, pyseccomp.EQ, int(socket.AF_NETLINK)),
        pyseccomp.Arg(2, pyseccomp.EQ, _NETLINK_ROUTE),
    )
    _rule(program, pyseccomp.ALLOW, "socketpair", pyseccomp.Arg(0, pyseccomp.EQ, int(socket.AF_UNIX)))
    for personality in _PERSONALITIES:
        _rule(program, pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, pyseccomp.EQ, personality))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        code = file.read()
    if not code or len(code) % 8:
        raise OSError("libseccomp gave no usable filter")
    return code


def _rule(program: pyseccomp.SyscallFilter, action: int, name: str, *arguments: pyseccomp.Arg) -> None:
    try:
        program.add_rule(action, name, *arguments)
    except (OSError, ValueError) as error:
        # This libseccomp or architecture has no such call, so it is not allowed; anything else is our mistake.
        if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EDOM, errno.EFAULT):
            raise
