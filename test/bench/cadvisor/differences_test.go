package cadvisor_test

import (
	"os"
	"regexp"
	"slices"
)

// difference is one between cAdvisor's exposition and nodekit's, with its reason.
type difference struct {
	kind   string         // missing or more at nodekit, or other; "" for any
	family *regexp.Regexp // whole name
	series *regexp.Regexp // what the series holds; nil for the family as a whole
	reason string
}

// reasonOf gives the reason for a difference of a family, or of a series.
func reasonOf(kind, family, series string) string {
	for _, d := range slices.Concat(differences, here()) {
		if (d.kind == "" || d.kind == kind) && d.family.MatchString(family) && (series == "") == (d.series == nil) && (d.series == nil || d.series.MatchString(series)) {
			return d.reason
		}
	}
	return ""
}

func of(names string) *regexp.Regexp { return regexp.MustCompile("^(" + names + ")$") }

var (
	every = regexp.MustCompile("")
	root  = regexp.MustCompile(`id=/,`)
	ours  = regexp.MustCompile(`id=PARENT[/,]`)
)

var differences = []difference{
	// Families.
	{"missing", of("container_creation_time_seconds"), nil, "the caller tells one time, container_start_time_seconds"},
	{"missing", of("container_health_state"), nil, "a runtime's verdict, of which a cgroup knows nothing; cAdvisor says 0"},
	{"missing", of("container_memory_(events_(high|max)|pgscan|pgsteal)_total"), nil, "v1 has no such counter; cAdvisor makes it 0"},
	{"missing", of("container_pressure_.*"), nil, "of a kernel without pressure, where cAdvisor says 0"},
	{"missing", of("container_blkio_device_usage_total|container_fs_.*"), nil, "cAdvisor lists file systems that are on no block device"},
	{"more", of("container_fs_(usage|limit)_bytes|container_fs_inodes_(free|total)"), nil, "the node's file systems on block devices, of which cAdvisor leaves out those whose type it does not know"},
	{"more", of("container_fs_(reads|writes)(_bytes)?_total|container_blkio_device_usage_total"), nil, "the node's, from /proc/diskstats: the root cgroup of v1 tells none"},
	{"missing", of("machine_(nvm|dimm)_.*|machine_cpu_(books|drawers)|machine_scrape_error"), nil, "of mainframes and persistent memory; a scrape that fails has no text here"},
	{"more", of("container_memory_(kernel_usage|max_usage_bytes|failcnt)"), nil, "the kernel has it and cAdvisor does not read it there"},
	{"more", of("container_hugetlb_.*"), nil, "the kubelet leaves it out of what it has cAdvisor read"},
	{"other", of("cadvisor_version_info"), nil, "no cAdvisor here"},

	// Series of the node. cAdvisor reads the root cgroup as if it were a
	// container; nodekit reads /proc, for v2 keeps no figures there.
	{"other", of("container_(cpu|memory|fs|blkio|pressure|network)_.*"), root, "the node works on between two readings; its memory is of /proc/meminfo, the root cgroup's on v1 leaves out part of the kernel's; its pressure is of /proc/pressure, where cAdvisor says 0"},
	{"missing", of("container_memory_(failcnt|failures_total|kernel_usage|max_usage_bytes|workingset_.*)|container_oom_events_total|container_spec_.*"), root, "of the root cgroup, which nothing limits and nothing fails in; /proc/meminfo has none"},
	{"missing", of("container_(processes|file_descriptors|sockets|ulimits_soft)"), root, "of the processes in the root cgroup itself, which are those that nobody has put elsewhere"},
	{"", of("container_threads(_max)?"), root, "the node's, from /proc/loadavg and the kernel's limits, where cAdvisor says 0"},
	{"other", of("container_start_time_seconds"), root, "the boot, from /proc/stat; cAdvisor has when a directory was first looked at"},
	{"", of("container_fs_.*|container_blkio_device_usage_total|container_network_.*"), root, "cAdvisor lists other devices: partitions, and file systems that are on none"},
	{"other", of("container_last_seen"), every, "the time of the scrape"},

	// Series of the cgroups.
	{"missing", of("container_start_time_seconds"), ours, "these cgroups were there before anybody listened; cAdvisor takes the time at which it first looked"},
	{"other", of("container_pressure_.*"), ours, "of the v2 tree of a hybrid machine, where cAdvisor says 0; or time between two readings"},
	{"other", of("container_memory_(failures_total|workingset_.*)"), regexp.MustCompile(`id=PARENT,`), "the sum over the cgroups below, as the name says; cAdvisor's is of the cgroup alone"},
	{"more", of("container_ulimits_soft"), ours, "cAdvisor reads the limits of the root's processes alone, if no runtime names the container"},
	{"more", of("container_cpu_usage_seconds_total"), regexp.MustCompile(`id=PARENT/idle,`), "0 is a figure; cAdvisor leaves it out"},
	{"other", of("container_cpu_.*|container_memory_(usage_bytes|working_set_bytes|kernel_usage|rss|cache)"), regexp.MustCompile(`id=PARENT(/busy)?,`), "a kernel counts late, and a sleeping process gives back what it does not need"},
}

// here are those of this kernel: others are held to have what it lacks.
func here() (list []difference) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		list = append(list,
			difference{"missing", of("container_memory_failcnt"), nil, "v2 has no such counter; cAdvisor says 0"},
			difference{"missing", of("container_memory_(events_(high|max)|pgscan|pgsteal)_total"), root, "the root cgroup has none; cAdvisor makes it 0"})
	}
	if fd, err := os.Stat("/proc/self/fd"); err == nil && fd.Size() == 0 {
		list = append(list, difference{"missing", of("container_file_descriptors"), nil, "before Linux 6.2 only a look at each process's files tells it"})
	}
	return list
}
