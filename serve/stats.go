package serve

import (
	"encoding/json"
	"net"
	"os"
	"time"

	"liege/serve/api"
	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/serve/front"
	"liege/serve/metrics"
	"liege/serve/worker"
)

// stats is what a stats listener sends: the names, and what they mean, are
// those of uWSGI's, so that uwsgitop and what reads the like go on to work.
// A few members more say what uWSGI does not count.
type stats struct {
	Version     string                   `json:"version"`
	ListenQueue int                      `json:"listen_queue"` // connections in the kernel's queues, and requests that wait for a worker
	QueueErrors int                      `json:"listen_queue_errors"`
	SignalQueue int                      `json:"signal_queue"`
	Load        int                      `json:"load"` // requests that are being served
	PID         int                      `json:"pid"`
	UID         int                      `json:"uid"`
	GID         int                      `json:"gid"`
	Cwd         string                   `json:"cwd"`
	Requests    uint64                   `json:"requests"` // static files too; uWSGI has no such sum
	Static      uint64                   `json:"static_requests"`
	Errors      uint64                   `json:"errors"`
	Locks       []map[string]uint64      `json:"locks"`
	Metrics     map[string]metrics.Value `json:"metrics,omitempty"` // the same
	Caches      []cache.Stats            `json:"caches,omitempty"`  // as in uWSGI: only if there are any
	Daemons     []daemonStats            `json:"daemons,omitempty"`
	Sockets     []socketStats            `json:"sockets"`
	Workers     []workerStats            `json:"workers"`
	Mules       []api.MuleStats          `json:"mules,omitempty"`
	Spoolers    []api.SpoolerStats       `json:"spoolers,omitempty"`
	Crons       []api.CronStats          `json:"crons,omitempty"`
}

type socketStats struct {
	Name       string `json:"name"`
	Proto      string `json:"proto"`
	Queue      int    `json:"queue"`
	MaxQueue   int    `json:"max_queue"`
	Shared     int    `json:"shared"`
	CanOffload int    `json:"can_offload"`
}

type workerStats struct {
	ID            int         `json:"id"`
	PID           int         `json:"pid"`
	Accepting     int         `json:"accepting"`
	Requests      uint64      `json:"requests"`
	DeltaRequests uint64      `json:"delta_requests"`
	Exceptions    uint64      `json:"exceptions"`
	HarakiriCount uint64      `json:"harakiri_count"`
	Signals       int         `json:"signals"`
	SignalQueue   int         `json:"signal_queue"`
	Status        string      `json:"status"`
	RSS           uint64      `json:"rss"`
	VSZ           uint64      `json:"vsz"`
	RunningTime   int64       `json:"running_time"` // microseconds
	LastSpawn     int64       `json:"last_spawn"`
	RespawnCount  uint64      `json:"respawn_count"` // with the first start, as in uWSGI
	TX            uint64      `json:"tx"`
	AverageRT     int64       `json:"avg_rt"` // microseconds
	Apps          []appStats  `json:"apps"`
	Cores         []coreStats `json:"cores"`
}

type appStats struct {
	ID          int    `json:"id"`
	Modifier1   int    `json:"modifier1"`
	Mountpoint  string `json:"mountpoint"`
	StartupTime int    `json:"startup_time"`
	Requests    uint64 `json:"requests"`
	Exceptions  uint64 `json:"exceptions"`
	Chdir       string `json:"chdir"`
	PID         int    `json:"pid,omitempty"` // where each mounted app has processes of its own
}

type coreStats struct {
	ID        int         `json:"id"`
	Requests  uint64      `json:"requests"`
	Static    uint64      `json:"static_requests"`
	Routed    uint64      `json:"routed_requests"`
	Offloaded uint64      `json:"offloaded_requests"`
	WriteErrs uint64      `json:"write_errors"`
	ReadErrs  uint64      `json:"read_errors"`
	InRequest int         `json:"in_request"`
	Vars      []string    `json:"vars"` // empty: they hold cookies and passwords
	ReqInfo   requestInfo `json:"req_info"`
}

type requestInfo struct {
	Start int64 `json:"request_start,omitempty"`
}

// Version is what the core calls itself in stats.
const Version = "liege"

// crew are workers with the modifier of what they do.
type crew struct {
	exchange.Stats
	modifier int
}

// crews are the workers of the application, and behind them the places of CGI
// programs: in uWSGI a worker is both.
func (c *Core) crews() []crew {
	var out []crew
	if c.exec != nil {
		out = append(out, crew{c.exec.Stats(), exchange.ToApplication})
	}
	if c.php != nil {
		out = append(out, crew{c.php.Stats(), exchange.ToPHP})
	}
	if c.app.Workers != nil || c.cgi == nil && len(out) == 0 {
		out = append(out, crew{c.pool.Stats(), exchange.ToApplication})
	}
	if c.cgi != nil {
		out = append(out, crew{c.cgi.Stats(), exchange.ToCGI})
	}
	return out
}

// stats renders the document.
func (c *Core) stats() []byte {
	cwd, _ := os.Getwd() // empty if it is gone
	d := stats{Version: Version, Load: c.front.Active(), PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(),
		Cwd: cwd, Caches: c.caches.Stats(), Metrics: c.shown(), Requests: c.counts.requests.Load(), Static: c.counts.static.Load(), Errors: c.counts.errors.Load(),
		Locks: []map[string]uint64{}, Daemons: c.daemonStats(), Sockets: []socketStats{}, Workers: []workerStats{}}
	for i, l := range c.app.Listen {
		s := socketStats{Name: l.Address, Proto: string(l.Protocol), CanOffload: 1}
		if ls := c.listeners.Load(); ls != nil && i < len(*ls) {
			s.Queue, s.MaxQueue = front.Queue((*ls)[i])
		}
		if s.MaxQueue == 0 {
			s.MaxQueue = l.Backlog
		}
		d.ListenQueue += s.Queue
		d.Sockets = append(d.Sockets, s)
	}
	for _, crew := range c.crews() {
		d.ListenQueue += crew.Queued
		first := len(d.Workers)
		for i := range crew.Workers {
			w := c.worker(&crew.Workers[i], crew.modifier)
			w.ID += first // each has a number of its own
			d.Workers = append(d.Workers, w)
		}
	}
	c.addJobs(&d)
	b, err := json.MarshalIndent(d, "", "\t")
	if err != nil {
		return nil // cannot be: the type holds no such value
	}
	return append(b, '\n')
}

func (c *Core) worker(w *exchange.WorkerStats, modifier int) workerStats {
	o := workerStats{ID: w.ID, PID: w.PID, Requests: w.Requests, DeltaRequests: w.Delta, Exceptions: w.Errors,
		HarakiriCount: w.Harakiris, Status: "idle", RunningTime: w.Running.Microseconds(), LastSpawn: unixTime(w.Spawned),
		RespawnCount: w.Respawns, TX: w.Sent, Cores: []coreStats{},
		Apps: []appStats{{Modifier1: modifier, Requests: w.Requests, Exceptions: w.Errors, Chdir: c.app.Dir}}}
	for i, a := range w.Apps {
		if i == 0 {
			o.Apps = nil
		}
		o.Apps = append(o.Apps, appStats{ID: i, Modifier1: modifier, Mountpoint: a.Mount, Requests: a.Requests, Exceptions: a.Errors, Chdir: c.app.Dir, PID: a.PID})
	}
	if !w.Spawned.IsZero() {
		o.RespawnCount++
	}
	switch {
	case w.Busy:
		o.Status = "busy"
	case w.Cheap:
		o.Status = "cheap"
	}
	if w.Accepting {
		o.Accepting = 1
	}
	if w.Requests > 0 {
		o.AverageRT = o.RunningTime / int64(w.Requests)
	}
	if w.PID > 0 {
		size, resident := worker.MemoryOf(w.PID)
		o.VSZ, o.RSS = uint64(size), uint64(resident)
	}
	for i, t := range w.Threads {
		core := coreStats{ID: i, Requests: t.Requests, Vars: []string{}}
		if !t.Since.IsZero() {
			core.InRequest, core.ReqInfo.Start = 1, t.Since.Unix()
		}
		o.Cores = append(o.Cores, core)
	}
	return o
}

func unixTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// keep remembers the listeners, for their queues.
func (c *Core) keep(ls []net.Listener) { c.listeners.Store(&ls) }
