package inifile

import (
	"fmt"
	"time"

	"liege/vassal"
)

// defaultYouth is for how long the memory of a worker is not looked at, as in
// uWSGI: an app that is large from the start would be replaced without end.
const defaultYouth = 10 * time.Second

// crew handles how many workers run at a time, and when one is replaced.
func (d *decoder) crew(v value) bool {
	c, w := &d.work.Cheaper, &d.work.Worn
	const mb = 1 << 20
	switch v.opt.Name {
	case "cheaper":
		c.Least, d.cheaper = clampInt(v.n), v
	case "cheaper-initial":
		c.Initial = clampInt(v.n)
	case "cheaper-step":
		c.Step = d.atLeast(v, maxWorkers)
	case "cheaper-overload":
		c.Overload = time.Duration(d.atLeast(v, 1<<30)) * time.Second
	case "cheaper-algo":
		switch name := firstWord(v.Value); name {
		case "spare", "spare2":
		default:
			d.warn(vassal.CodeNotYet, v.Setting, fmt.Sprintf("%q is not there yet: the algorithm is spare", clip(name)), "cheaper-algo = spare")
		}
	case "cheap":
		c.Cheap = v.on
	case "max-requests-delta":
		d.work.MaxDelta = clampInt(v.n)
	case "max-worker-lifetime":
		w.Life = time.Duration(min(v.n, 1<<30)) * time.Second
	case "max-worker-lifetime-delta":
		w.LifeDelta = time.Duration(min(v.n, 1<<30)) * time.Second
	case "min-worker-lifetime":
		w.Youth, d.youth = time.Duration(min(v.n, 1<<30))*time.Second, true
	case "reload-on-rss":
		w.RSS = min(v.n, 1<<40) * mb
	case "reload-on-as":
		w.AS = min(v.n, 1<<40) * mb
	case "evil-reload-on-rss":
		w.EvilRSS = min(v.n, 1<<40) * mb
	case "evil-reload-on-as":
		w.EvilAS = min(v.n, 1<<40) * mb
	default:
		return false
	}
	return true
}

// finishCrew checks what several lines say together.
func (d *decoder) finishCrew() {
	c, w := &d.work.Cheaper, &d.work.Worn
	switch {
	case c.Least == 0:
		c.Initial, c.Step, c.Overload = 0, 0, 0
	case c.Least >= d.work.Processes:
		d.err(vassal.CodeBadValue, d.cheaper.Setting, fmt.Sprintf("%d is not less than the %d processes", c.Least, d.work.Processes), "processes = the highest number, cheaper = the lowest")
	}
	if w.RSS > 0 || w.AS > 0 {
		if !d.youth {
			w.Youth = defaultYouth
		}
	} else {
		w.Youth = 0
	}
	if w.Life == 0 {
		w.LifeDelta = 0
	}
}
