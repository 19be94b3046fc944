package serve

import (
	"fmt"

	"liege/serve/front"
	"liege/serve/metrics"
	"liege/vassal"
)

// A MetricUser is an Application whose functions read and set the vassal's
// metrics: it is given them before Run, and not at all if there are none.
type MetricUser interface {
	UseMetrics(set *metrics.Set)
}

// makeMetrics makes the vassal's metrics.
func (c *Core) makeMetrics() {
	if c.app.Metrics == nil {
		return
	}
	c.metrics = metrics.New(c.app.Metrics, c.app.Dir, c.builtIn)
	if u, ok := c.pool.(MetricUser); ok {
		u.UseMetrics(c.metrics)
	}
}

// shown are the metrics of the stats: nil without any.
func (c *Core) shown() map[string]metrics.Value {
	if c.app.Metrics == nil || c.app.Metrics.Hidden {
		return nil
	}
	out := map[string]metrics.Value{}
	for _, v := range c.metrics.All() {
		out[v.Name] = v
	}
	return out
}

// measures collects metrics.
type measures []metrics.Value

func (m *measures) add(name, oid string, kind vassal.MetricType, v int64) {
	*m = append(*m, metrics.Value{Name: name, OID: oid, Type: kind, Value: v})
}

// Types, shorter.
const (
	counter  = vassal.MetricCounter
	gauge    = vassal.MetricGauge
	absolute = vassal.MetricAbsolute
	alias    = vassal.MetricAlias
)

// builtIn are uWSGI's own metrics, with its names and numbers (core/metrics.c).
func (c *Core) builtIn() []metrics.Value {
	var out measures
	all, busy := workerStats{}, int64(0)
	var workers []workerStats
	for _, crew := range c.crews() {
		for i := range crew.Workers {
			w := c.worker(&crew.Workers[i], crew.modifier)
			w.ID = len(workers) + 1
			workers = append(workers, w)
			all.sum(&w)
			if w.Status == "busy" {
				busy++
			}
		}
	}
	out.add("core.routed_signals", "5.1", counter, 0)
	out.add("core.unrouted_signals", "5.2", counter, 0)
	out.add("core.busy_workers", "5.3", gauge, busy)
	out.add("core.idle_workers", "5.4", gauge, int64(len(workers))-busy)
	out.add("core.overloaded", "5.5", counter, 0)
	out.add("core.total_tx", "5.100", counter, int64(all.TX))
	out.add("core.total_rss", "5.101", gauge, int64(all.RSS))
	out.add("core.total_vsz", "5.102", gauge, int64(all.VSZ))
	out.add("core.avg_response_time", "5.103", gauge, all.AverageRT)
	out.add("core.total_running_time", "5.104", counter, all.RunningTime)
	out.worker(&all)
	for i := range workers {
		out.worker(&workers[i])
		if !c.app.Metrics.NoCores {
			out.cores(&workers[i])
		}
	}
	for i := range c.app.Listen {
		queue := 0
		if ls := c.listeners.Load(); ls != nil && i < len(*ls) {
			queue, _ = front.Queue((*ls)[i])
		}
		out.add(fmt.Sprintf("socket.%d.listen_queue", i), fmt.Sprintf("7.%d.1", i), gauge, int64(queue))
	}
	out.add("rss_size", "5.101", alias, int64(all.RSS))
	out.add("vsz_size", "5.102", alias, int64(all.VSZ))
	return out
}

// sum adds a worker to what is worker 0: all of them.
func (w *workerStats) sum(o *workerStats) {
	w.Requests += o.Requests
	w.DeltaRequests += o.DeltaRequests
	w.Exceptions += o.Exceptions
	w.RespawnCount += o.RespawnCount
	w.TX += o.TX
	w.RSS += o.RSS
	w.VSZ += o.VSZ
	w.RunningTime += o.RunningTime
	if w.Requests > 0 {
		w.AverageRT = w.RunningTime / int64(w.Requests)
	}
}

func (m *measures) worker(w *workerStats) {
	add := func(name string, n int, kind vassal.MetricType, v int64) {
		m.add(fmt.Sprintf("worker.%d.%s", w.ID, name), fmt.Sprintf("3.%d.%d", w.ID, n), kind, v)
	}
	add("requests", 1, counter, int64(w.Requests))
	add("delta_requests", 2, absolute, int64(w.DeltaRequests))
	add("failed_requests", 13, counter, int64(w.Exceptions))
	add("respawns", 14, counter, int64(w.RespawnCount))
	add("avg_response_time", 8, gauge, w.AverageRT)
	add("total_tx", 9, counter, int64(w.TX))
	add("rss_size", 11, gauge, int64(w.RSS))
	add("vsz_size", 12, gauge, int64(w.VSZ))
	add("running_time", 13, counter, w.RunningTime)
}

func (m *measures) cores(w *workerStats) {
	for i := range w.Cores {
		c := &w.Cores[i]
		add := func(name string, n int, v uint64) {
			m.add(fmt.Sprintf("worker.%d.core.%d.%s", w.ID, i, name), fmt.Sprintf("3.%d.2.%d.%d", w.ID, i, n), counter, int64(v))
		}
		add("requests", 1, c.Requests)
		add("write_errors", 3, c.WriteErrs)
		add("routed_requests", 4, c.Routed)
		add("static_requests", 5, c.Static)
		add("offloaded_requests", 6, c.Offloaded)
		add("exceptions", 7, 0)
		add("read_errors", 8, c.ReadErrs)
	}
}
