package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// While two generations of a vassal live, at a reload, the one that serves must
// not die for the other (KERNEL 21). Its limits are raised by what it uses, not
// over the ceilings; where those leave too little the old one ends before the new
// one starts (Crowded); and until the new one serves, the kernel kills that first.

// overlapPids is what pids-max may be raised to above its ceiling, so that a
// successor can start beside a vassal that has all that it may have: a core's
// threads (5 to 20) and workers.
const overlapPids = 64

// serving counts the generations that live and are no bare ones. v.mu is held.
func (v *Vassal) serving() (n int) {
	for _, s := range v.live {
		if !s.bare {
			n++
		}
	}
	return n
}

// raised are the limits that let a generation with l start beside those that live:
// it neither starves nor kills them (CONTRACT 18). v.mu is held.
func (v *Vassal) raised(l vassal.Limits, ceilings vassal.Ceilings) vassal.Limits {
	up, relays, pids := l, int64(1), int64(0)
	for gen, other := range v.live {
		u, err := v.m.trees.usage(v.generation(gen))
		if err != nil {
			continue // it just ended
		}
		up.MemoryMax += u.MemoryBytes
		up.MemoryHigh += u.MemoryBytes
		up.PidsMax += u.Pids
		pids += u.Pids
		if other.relays {
			up.PidsMax += RelayPids
			relays++
		}
	}
	bound := func(up *int64, l, ceiling int64) {
		switch {
		case l == 0: // no limit is none for two
			*up = 0
		case ceiling > 0:
			*up = max(l, min(*up, ceiling))
		}
	}
	bound(&up.MemoryMax, l.MemoryMax, ceilings.MemoryMax)
	bound(&up.MemoryHigh, l.MemoryHigh, ceilings.MemoryMax)
	if ceilings.PidsMax > 0 { // lowered meanwhile, it may be less than there are
		ceilings.PidsMax = max(ceilings.PidsMax, pids) + overlapPids + relays*RelayPids
	}
	bound(&up.PidsMax, l.PidsMax, ceilings.PidsMax)
	return up
}

// Crowded reports whether the ceilings leave too little memory for a generation
// with l beside those that live: used is what they hold and the kernel cannot take
// back, and need what the new one is expected to want, which is as much as the
// largest of them has, or memory-max if that is less.
//
// That the whole of memory-max be left would be too much to ask: a vassal without a
// line about it has the ceiling itself, so that each reload would end what serves
// before it is known whether the new one can.
func (v *Vassal) Crowded(l vassal.Limits, ceilings vassal.Ceilings) (used, need int64, crowded bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.serving() == 0 || l.MemoryMax == 0 || ceilings.MemoryMax == 0 {
		return 0, 0, false
	}
	for gen := range v.live {
		need = max(need, v.m.trees.held(v.generation(gen)))
	}
	used, need = v.m.trees.held(v.cgroup()), min(need, l.MemoryMax)
	return used, need, used+need > ceilings.MemoryMax
}

// held is the memory that is charged to a cgroup, in bytes, but for what the
// kernel can take back at once: pages of files.
func (t *trees) held(inner string) int64 {
	dir, usage, total := filepath.Join(t.unified, inner), "memory.current", ""
	if !t.v2() {
		dir, usage, total = t.dir("memory", inner), "memory.usage_in_bytes", "total_"
	}
	n := readInt(dir, usage)
	for _, key := range []string{"inactive_file", "active_file"} {
		n -= readKey(dir, "memory.stat", total+key)
	}
	return max(n, 0)
}

// The oom_score_adj of every process of a generation that starts beside one that
// serves, until it serves itself. The kernel adds it, in thousandths of the
// limit, to what a process has: one that has less than 60 % of the limit outlives
// them, whatever they have, even with the 400 of a worker.
const dieFirst = 1000

// workerWorse is what the core adds to its own score for each process that it
// starts (package worker).
const workerWorse = 300

// maxScorePasses bounds how often Level looks for processes that were forked
// meanwhile.
const maxScorePasses = 5

// Second reports whether another generation served when s was started.
func (s *Sandbox) Second() bool { return s.second }

// Level ends that the kernel kills the generation before others of its vassal:
// call it when it serves. A process that has lowered its score by itself is left
// alone.
func (s *Sandbox) Level() error {
	if !s.second {
		return nil
	}
	for range maxScorePasses {
		found, err := s.levelAll()
		if err != nil || !found {
			return err
		}
	}
	return nil
}

// levelAll sets back the scores of the processes that there are, and reports
// whether it found any.
//
// The processes are the tenant's, and their numbers anybody's once they have
// ended: each directory of /proc is opened first, and its process is in the cgroup
// if its number is found there afterwards and the directory still answers.
func (s *Sandbox) levelAll() (found bool, err error) {
	pids := s.m.trees.pids(s.cgroup)
	files := map[int]*os.File{}
	for _, pid := range pids {
		if f, err := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_RDWR, 0); err == nil {
			files[pid] = f
			defer f.Close()
		} else if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	still := s.m.trees.pids(s.cgroup)
	for _, pid := range pids {
		f := files[pid]
		if f == nil || !slices.Contains(still, pid) {
			continue
		}
		have := make([]byte, 16)
		n, _ := f.ReadAt(have, 0) // what has ended says nothing
		if strings.TrimSpace(string(have[:n])) != strconv.Itoa(dieFirst) {
			continue
		}
		score := s.score
		if pid != s.pid {
			score = min(score+workerWorse, dieFirst)
		}
		if score == dieFirst {
			continue
		}
		found = true
		if err := setScore(f, score); err != nil {
			return found, fmt.Errorf("oom_score_adj of process %d: %w", pid, err)
		}
	}
	return found, nil
}

// setScore writes an oom_score_adj. Without CAP_SYS_RESOURCE it is not lowered
// below what the process had before it was raised, which is this process's own.
func setScore(f *os.File, score int) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(score)), 0)
	if errors.Is(err, os.ErrPermission) {
		own, rerr := os.ReadFile("/proc/self/oom_score_adj")
		if rerr != nil {
			return errors.Join(err, rerr)
		}
		_, err = f.WriteAt(own, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
