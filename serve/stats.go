package serve

import (
	"encoding/json"
	"os"
	"time"
)

// stats is what a stats listener sends: the names are uWSGI's, so that
// uwsgitop and what reads the like go on to work.
type stats struct {
	Version     string        `json:"version"`
	ListenQueue int           `json:"listen_queue"`
	Load        int           `json:"load"`
	PID         int           `json:"pid"`
	UID         int           `json:"uid"`
	GID         int           `json:"gid"`
	Cwd         string        `json:"cwd"`
	Requests    uint64        `json:"requests"` // static files too; uWSGI has no such sum
	Errors      uint64        `json:"errors"`
	Sockets     []socketStats `json:"sockets"`
	Workers     []workerStats `json:"workers"`
}

type socketStats struct {
	Name  string `json:"name"`
	Proto string `json:"proto"`
}

type workerStats struct {
	ID             int    `json:"id"`
	PID            int    `json:"pid"`
	Accepting      int    `json:"accepting"`
	Requests       uint64 `json:"requests"`
	DeltaRequests  uint64 `json:"delta_requests"`
	Exceptions     uint64 `json:"exceptions"`
	HarakiriCount  uint64 `json:"harakiri_count"`
	Status         string `json:"status"`
	RSS            int    `json:"rss"`
	VSZ            int    `json:"vsz"`
	RunningTime    int64  `json:"running_time"` // microseconds
	LastSpawn      int64  `json:"last_spawn"`
	RespawnCount   uint64 `json:"respawn_count"`
	TX             uint64 `json:"tx"`
	AverageRT      int64  `json:"avg_rt"` // microseconds
	Apps           []any  `json:"apps"`
	Cores          []any  `json:"cores"`
	SignalsCounted int    `json:"signals"`
}

// Version is what the core calls itself in stats.
const Version = "liege"

// stats renders the document.
func (c *Core) stats() []byte {
	st := c.pool.Stats()
	cwd, _ := os.Getwd() // empty if it is gone
	d := stats{Version: Version, ListenQueue: st.Queued, Load: c.front.Active(), PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(),
		Cwd: cwd, Requests: c.counts.requests.Load(), Errors: c.counts.errors.Load(), Sockets: []socketStats{}, Workers: []workerStats{}}
	for _, l := range c.app.Listen {
		d.Sockets = append(d.Sockets, socketStats{l.Address, string(l.Protocol)})
	}
	for _, w := range st.Workers {
		o := workerStats{ID: w.ID, PID: w.PID, Requests: w.Requests, DeltaRequests: w.Requests, Exceptions: w.Errors,
			HarakiriCount: w.Harakiris, Status: "idle", RunningTime: w.Running.Microseconds(), LastSpawn: unix(w.Spawned),
			RespawnCount: w.Respawns, TX: w.Sent, Apps: []any{}, Cores: []any{}}
		if w.Busy {
			o.Status = "busy"
		}
		if w.Accepting {
			o.Accepting = 1
		}
		if w.Requests > 0 {
			o.AverageRT = o.RunningTime / int64(w.Requests)
		}
		d.Workers = append(d.Workers, o)
	}
	b, err := json.MarshalIndent(d, "", "\t")
	if err != nil {
		return nil // cannot be: the type holds no such value
	}
	return append(b, '\n')
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
