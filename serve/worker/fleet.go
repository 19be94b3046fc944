package worker

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
	"liege/vassal"
)

// fleet is several applications behind one Pool: uWSGI's mount. uWSGI loads
// each into a sub-interpreter of the same processes, which keeps their modules
// apart and breaks extension modules that know of one interpreter only. Here
// each has processes of its own, so nothing is shared that one of them could
// break; with single-interpreter all are loaded into the same processes.
//
// Worker n of the vassal is the n-th process of every application: each counts
// as many processes as the file says.
type fleet struct {
	m     *vassal.Mounting
	pools []*Pool // the first is the pool that the fleet belongs to; one alone: single-interpreter
	ready chan vassal.Problems
	apps  []appCount // of single-interpreter
}

type appCount struct{ requests, errors atomic.Int64 }

// NewMounted is New for an app that may have several applications: runtime
// makes the runtime of each.
func NewMounted(app *vassal.App, runtime func(*vassal.App) (lang.Runtime, error), log *slog.Logger) (*Pool, error) {
	rt, err := runtime(app)
	if err != nil {
		return nil, err
	}
	p, err := New(app, rt, log)
	if err == nil && app.Workers != nil && app.Mounting != nil && len(app.Mounting.Mounts) > 1 {
		err = p.mount(app.Mounting, runtime)
	}
	return p, err
}

// mount makes the pools of the applications that are mounted beside the first.
func (p *Pool) mount(m *vassal.Mounting, runtime func(*vassal.App) (lang.Runtime, error)) error {
	f := &fleet{m: m, pools: []*Pool{p}, ready: make(chan vassal.Problems, 1), apps: make([]appCount, len(m.Mounts))}
	p.fleet = f
	if m.OneForAll {
		return nil
	}
	for i := range m.Mounts[1:] {
		x := &m.Mounts[i+1]
		app, workers := *p.app, x.Workers(p.w)
		if !workers.TitlePlain {
			if workers.Title == "" {
				workers.Title = string(app.Name)
			}
			workers.Title += x.Point
		}
		app.Workers, app.Mounting = &workers, nil
		rt, err := runtime(&app)
		if err != nil {
			return err
		}
		q, err := New(&app, rt, p.log.With("mount", x.Point))
		if err != nil {
			return err
		}
		q.further = true
		f.pools = append(f.pools, q)
	}
	return nil
}

// superviseAll is supervise for all applications: when one of them cannot be
// served, none is.
func (p *Pool) superviseAll(ctx context.Context, r *reaper) error {
	if p.fleet == nil {
		return p.supervise(ctx, r)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pools := p.fleet.pools
	errs := make([]error, len(pools))
	var all sync.WaitGroup
	for i, q := range pools {
		q.Stdout, q.Stderr, q.Changed, q.fault, q.life = p.Stdout, p.Stderr, p.Changed, p.fault, Life{Loaded: p.life.Loaded, Mule: p.life.Mule}
		all.Go(func() {
			errs[i] = q.supervise(ctx, r)
			stop()
		})
	}
	all.Go(func() {
		var notes vassal.Problems
		for _, q := range pools {
			select {
			case n := <-q.ready:
				notes = append(notes, n...)
			case <-ctx.Done():
				return
			}
		}
		p.fleet.ready <- notes
	})
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err // the others were asked to end because of it
		}
	}
	return nil
}

var errNoApp = errors.New("no application is mounted there")

// mounted is the index of the application that r is for. One alone, which has
// no fleet, is asked about as well: with no-default-app it is not for all.
func mounted(m *vassal.Mounting, r *exchange.Request) (int, error) {
	if m == nil {
		return 0, nil
	}
	i := m.Choose(r.Get("UWSGI_APPID"), r.Get("SCRIPT_NAME"))
	if i < 0 {
		return i, &exchange.StatusError{Status: 404, Err: errNoApp}
	}
	return i, nil
}

// serve hands r to the i-th application.
func (f *fleet) serve(ctx context.Context, i int, r *exchange.Request, w exchange.Response) error {
	if len(f.pools) > 1 {
		return f.pools[i].serve(ctx, r, w, nil)
	}
	r.Set("liege.app", strconv.Itoa(i))
	err := f.pools[0].serve(ctx, r, w, nil)
	f.apps[i].requests.Add(1)
	if err != nil {
		f.apps[i].errors.Add(1)
	}
	return err
}

// call calls a function of whichever application has registered it.
func (f *fleet) call(ctx context.Context, name string, args []string) (string, error) {
	for _, q := range f.pools {
		if out, err := q.callOwn(ctx, name, args); !errors.Is(err, errNoFunction) {
			return out, err
		}
	}
	return "", errNoFunction
}

// add adds what the further applications did to out, which is the first's.
func (f *fleet) add(out *exchange.Stats) {
	if len(f.pools) == 1 {
		// Which process of several answered is not known for each app.
		for i := range f.apps {
			for j := range out.Workers {
				a := exchange.AppStats{Mount: f.m.Mounts[i].Point}
				if j == 0 {
					a.Requests, a.Errors = uint64(f.apps[i].requests.Load()), uint64(f.apps[i].errors.Load())
				}
				out.Workers[j].Apps = append(out.Workers[j].Apps, a)
			}
		}
		return
	}
	for i, q := range f.pools {
		st := *out
		if i > 0 {
			st = q.ownStats()
			out.Queued += st.Queued
			out.Respawns += st.Respawns
		}
		for j := range out.Workers {
			o, w := &out.Workers[j], st.Workers[j]
			a := exchange.AppStats{Mount: f.m.Mounts[i].Point, PID: w.PID, Requests: w.Requests, Errors: w.Errors}
			if i > 0 {
				o.Requests, o.Errors, o.Respawns, o.Harakiris = o.Requests+w.Requests, o.Errors+w.Errors, o.Respawns+w.Respawns, o.Harakiris+w.Harakiris
				o.Running, o.Sent, o.Delta = o.Running+w.Running, o.Sent+w.Sent, o.Delta+w.Delta
				o.Busy, o.Cheap, o.Accepting = o.Busy || w.Busy, o.Cheap && w.Cheap, o.Accepting && w.Accepting
			}
			o.Apps = append(o.Apps, a)
		}
	}
}
