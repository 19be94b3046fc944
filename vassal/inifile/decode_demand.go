package inifile

import (
	"fmt"
	"strings"
	"time"

	"liege/vassal"
)

// defaultSleep is when a vassal with on-demand goes to sleep if idle does not
// say.
const defaultSleep = 5 * time.Minute

// demand is what lines say about vassals that sleep.
type demand struct {
	set   bool     // on-demand was written
	line  *Setting // on-demand = true
	idle  *Setting
	dies  *Setting // die-on-idle = true
	after time.Duration
}

// sleeping handles on-demand and its kin.
func (d *decoder) sleeping(v value) bool {
	m := &d.demand
	switch v.opt.Name {
	case "on-demand":
		if m.set, m.line = true, nil; v.on {
			m.line = &v.Setting
		}
	case "idle":
		m.idle, m.after = &v.Setting, time.Duration(min(v.n, 1<<30))*time.Second
		d.work.Cheaper.Idle = m.after
	case "die-on-idle":
		if m.dies = nil; v.on {
			m.dies = &v.Setting
		}
	default:
		return false
	}
	return true
}

// finishDemand decides whether and when the vassal sleeps. Under an Emperor of
// uWSGI only idle with die-on-idle makes a vassal sleep again, and idle alone
// means its workers; on-demand is Liege's and needs neither.
func (d *decoder) finishDemand() {
	m, r := &d.demand, &d.cfg.Restart
	if d.pol.OnDemand != nil && !m.set {
		r.OnDemand, r.OnDemandAt = true, d.pol.OnDemand.Origin
		if m.dies != nil && m.after > 0 {
			d.cfg.App.Sleep = m.after
		}
	}
	if m.line != nil {
		r.OnDemand, r.OnDemandAt = true, m.line.Origin
		if d.cfg.App.Sleep = defaultSleep; m.idle != nil {
			d.cfg.App.Sleep = m.after
		}
	}
	if d.pol.Serve {
		d.notInFront()
		return
	}
	switch {
	case !r.OnDemand && m.dies != nil:
		d.note(vassal.CodeDoneOtherwise, *m.dies, "without on-demand the vassal stays, without its workers: nobody would start it again")
	case r.OnDemand && len(d.cfg.Listen) == 0:
		d.err(vassal.CodeNoListener, d.demandSetting(), "nothing to be woken by: the vassal has no listener", "remove the line, or http-socket = 127.0.0.1:8080")
	}
	if d.cfg.App.Sleep > 0 {
		d.work.Cheaper.Idle = 0
	}
	if r.OnDemand {
		d.sleepless()
	}
}

// notInFront undoes what only an Emperor can do.
func (d *decoder) notInFront() {
	if m := &d.demand; m.line != nil {
		d.note(vassal.CodeDoneOtherwise, *m.line, "liege serve starts at once and stays: sleeping needs an Emperor")
	}
	d.cfg.Restart.OnDemand, d.cfg.App.Sleep = false, 0
}

func (d *decoder) demandSetting() Setting {
	if d.demand.line != nil {
		return *d.demand.line
	}
	return Setting{Key: d.pol.OnDemand.Key, Origin: d.cfg.Restart.OnDemandAt}
}

// sleepless warns of what does not run while the vassal sleeps.
func (d *decoder) sleepless() {
	var what []string
	add := func(n int, kind string, at vassal.Origin) {
		if n > 0 {
			what = append(what, fmt.Sprintf("%s (line %d)", kind, at.Line))
		}
	}
	if j := d.cfg.App.Jobs; j != nil {
		if n := len(j.Crons); n > 0 {
			add(n, "crons", j.Crons[0].At)
		}
		if n := len(j.Timers); n > 0 {
			add(n, "timers", j.Timers[0].At)
		}
		if n := len(j.Mules); n > 0 {
			add(n, "mules", j.Mules[0].At)
		}
		if n := len(j.Spoolers); n > 0 {
			add(n, "spoolers", j.Spoolers[0].At)
		}
	}
	if n := len(d.own.daemons); n > 0 {
		add(n, "daemons", d.own.daemons[0].At)
	}
	if len(what) > 0 {
		d.warn(vassal.CodeSleeps, d.demandSetting(), "while the vassal sleeps nothing of it runs: not its "+strings.Join(what, ", "),
			"put them into a vassal of their own, without on-demand")
	}
}
