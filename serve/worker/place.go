package worker

import (
	"golang.org/x/sys/unix"
)

// place gives worker number of this pool its CPUs: those of this process in
// order, perWorker for each, beginning again at the end (uWSGI's
// cpu-affinity). Whoever may not keeps what it has.
func place(pid, number, perWorker int) {
	var own, chosen unix.CPUSet
	if perWorker <= 0 || unix.SchedGetaffinity(0, &own) != nil {
		return
	}
	var cpus []int
	for i := range len(own) * 64 {
		if own.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	if len(cpus) == 0 {
		return
	}
	for i := range perWorker {
		chosen.Set(cpus[((number-1)*perWorker+i)%len(cpus)])
	}
	_ = unix.SchedSetaffinity(pid, &chosen) // the process may have ended
}

// batch makes a process, and what it will fork, one that does not pre-empt
// others when it wakes.
func batch(pid int) {
	_ = unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}, 0)
}
