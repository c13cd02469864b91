//! Reads and sets what the Linux kernel holds for a process: affinity, memory policy, cgroup, pages by node.
