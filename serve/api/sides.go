package api

import (
	"sync"
	"time"

	"liege/serve/worker"
)

// sides are the mules and spoolers that are connected.
type sides struct {
	mu  sync.Mutex
	all map[*client]*side
}

// side is one mule or spooler.
type side struct {
	tasks uint64
	since time.Time // of the task it is at; zero: none
	late  *time.Timer
}

func (s *sides) init() { s.all = map[*client]*side{} }

// join takes note of a process that waits for something to do: so it is done
// with what it had.
func (s *sides) join(c *client) {
	if c.role != 'm' && c.role != 's' {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.side == nil {
		c.side = &side{}
		s.all[c] = c.side
	}
	if c.role == 'm' {
		c.side.rest()
	}
}

// rest ends a task.
func (x *side) rest() {
	x.since = time.Time{}
	if x.late != nil {
		x.late.Stop()
		x.late = nil
	}
}

// begin takes note that a mule got something to do.
func (s *sides) begin(c *client) {
	if c.role == 'm' && c.side != nil {
		s.start(c, c.h.jobs.MuleHarakiri, "mule-harakiri")
	}
}

// busy is a spooler's own word about a task.
func (c *client) busy() bool {
	on, good := c.f.small(0, 0, 1)
	if !good || c.role != 's' {
		return false
	}
	c.h.sides.join(c)
	if on == 1 {
		c.h.sides.start(c, c.h.jobs.Spool.Harakiri, "spooler-harakiri")
		return true
	}
	c.h.sides.mu.Lock()
	defer c.h.sides.mu.Unlock()
	c.side.rest()
	return true
}

// start begins a task; one that takes longer than limit ends the process.
func (s *sides) start(c *client, limit time.Duration, option string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.side.rest()
	c.side.tasks++
	c.side.since = time.Now()
	if limit > 0 && c.self() {
		c.side.late = time.AfterFunc(limit, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.all[c] != nil && !c.side.since.IsZero() {
				c.h.log.Error("harakiri: a task took too long", "option", option, "pid", c.pid, "limit", limit)
				c.kill()
			}
		})
	}
}

// leave forgets a process.
func (s *sides) leave(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.side != nil {
		c.side.rest()
		delete(s.all, c)
	}
}

// MuleStats and SpoolerStats are as in uWSGI's stats.
type MuleStats struct {
	ID       int    `json:"id"`
	PID      int    `json:"pid"`
	Status   string `json:"status"`
	Tasks    uint64 `json:"tasks"`
	Respawns uint64 `json:"respawns"`
}

// SpoolerStats is one process of a spooler.
type SpoolerStats struct {
	Dir      string `json:"dir"`
	PID      int    `json:"pid"`
	Tasks    uint64 `json:"tasks"`
	Respawns uint64 `json:"respawns"`
	Running  int    `json:"running"`
}

// CronStats is one cron line.
type CronStats struct {
	Minute  int    `json:"minute"`
	Hour    int    `json:"hour"`
	Day     int    `json:"day"`
	Month   int    `json:"month"`
	Week    int    `json:"week"`
	Command string `json:"command"`
	Unique  int    `json:"unique"`
	PID     int    `json:"pid"`
	Started int64  `json:"started_at"`
}

// Crons are the cron lines.
func (h *Host) Crons() (out []CronStats) {
	for i := range h.jobs.Crons {
		k, st := &h.jobs.Crons[i], &h.crons[i]
		st.mu.Lock()
		c := CronStats{Minute: k.Minute, Hour: k.Hour, Day: k.Day, Month: k.Month, Week: k.Week, Command: k.Command, PID: st.pid}
		if !st.started.IsZero() {
			c.Started = st.started.Unix()
		}
		if k.Unique {
			c.Unique = 1
		}
		st.mu.Unlock()
		out = append(out, c)
	}
	return out
}

// tasks is what the process pid has done, and whether it is at something.
func (s *sides) tasks(pid int) (n uint64, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, x := range s.all {
		if c.pid == pid {
			n, busy = n+x.tasks, busy || !x.since.IsZero()
		}
	}
	return n, busy
}

// Sides tells of the mules and the spoolers.
func (h *Host) Sides() (mules []MuleStats, spoolers []SpoolerStats) {
	for _, x := range h.pool.SideStats() {
		tasks, busy := h.sides.tasks(x.PID)
		if x.Kind == worker.Mule {
			m := MuleStats{ID: x.Number, PID: x.PID, Status: "idle", Tasks: tasks, Respawns: x.Respawns}
			if busy {
				m.Status = "busy"
			}
			mules = append(mules, m)
			continue
		}
		s := SpoolerStats{Dir: x.Spooler.Dir, PID: x.PID, Tasks: tasks, Respawns: x.Respawns}
		if busy {
			s.Running = 1
		}
		spoolers = append(spoolers, s)
	}
	return mules, spoolers
}
