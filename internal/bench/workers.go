package main

import (
	"context"
	"fmt"
	"time"
)

// bigApp is an app of which the objects take some 30 MB.
const bigApp = rawWSGI + "\nDATA = [{'number': i, 'text': 'x%d' % i} for i in range(100000)]\n"

// workers: the memory of two Python workers and what belongs to them, after
// some load, each server alone on the machine: pages that several servers share
// would count for little. Then a large app whose pages the workers share, as they
// do unless lazy-apps says otherwise, and the same with lazy-apps.
func (b *bench) workers(ctx context.Context) error {
	for _, l := range []language{
		{name: "two", title: "Two workers of a raw WSGI app", file: "app.py", text: rawWSGI, line: "wsgi-file = app.py", plugin: "python3"},
		{name: "two-flask", title: "Two workers of a Flask app", file: "app.py", text: flaskApp, line: "wsgi-file = app.py", plugin: "python3"},
		{name: "two-big", title: "Two workers of a 30 MB app", file: "app.py", text: bigApp, line: "wsgi-file = app.py", plugin: "python3"},
	} {
		dir, err := b.program(l)
		if err != nil {
			return err
		}
		ours, err := b.weigh(ctx, l, dir, "")
		if err != nil {
			return err
		}
		peers, err := b.weighUWSGI(ctx, l, dir)
		if err != nil {
			return err
		}
		compare(l.title+": memory of the app's processes (PSS)", "MB", ours, peers, "uWSGI", true)
		if l.name != "two-big" {
			continue
		}
		lazy, err := b.weigh(ctx, l, dir, "lazy-apps = true\n")
		if err != nil {
			return err
		}
		compare(l.title+", loaded once before they are forked", "MB", ours, lazy, "lazy-apps", true)
	}
	return nil
}

// weigh is the memory below liege serve, which stands for the Emperor.
func (b *bench) weigh(ctx context.Context, l language, dir, further string) (series, error) {
	addrs, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	r, err := b.serve(l.name, addrs[0], 2, l.lines(dir)+"disable-logging = true\n"+further)
	if err != nil {
		return nil, err
	}
	return b.loaded(ctx, r, false)
}

// weighUWSGI is the memory of uWSGI, of which the master is the app's.
func (b *bench) weighUWSGI(ctx context.Context, l language, dir string) (series, error) {
	addrs, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	r := rival{name: "uWSGI", addr: addrs[0]}
	c, err := b.uwsgiOf(l, dir, "uwsgi", "http-socket = "+r.addr+"\n")
	if err != nil {
		return nil, err
	}
	r.cmds = append(r.cmds, c)
	return b.loaded(ctx, r, true)
}

// rested is the pause between a load and the look at the memory.
const rested = 8 * time.Second

// loaded runs r under load and measures it after each round, and a rest.
func (b *bench) loaded(ctx context.Context, r rival, itself bool) (series, error) {
	end, err := b.up(ctx, "/", []rival{r})
	defer end()
	if err != nil {
		return nil, err
	}
	var out series
	for range b.rounds {
		if _, err := b.wrk(ctx, "http://"+r.addr+"/"); err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		select {
		case <-time.After(rested):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		kb, err := pss(r.cmds[0].Process.Pid, itself)
		if err != nil {
			return nil, err
		}
		out = append(out, float64(kb)/1024)
	}
	return out, nil
}
