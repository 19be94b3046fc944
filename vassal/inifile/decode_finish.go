package inifile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

// finish is what can only be said once every line is known.
func (d *decoder) finish() {
	d.finishApp()
	d.finishLanguage()
	d.finishListen()
	d.finishServers()
	d.finishFront()
	d.finishLog()
	d.finishTLS()
	d.finishCGI()
	d.finishCaches()
	d.finishJobs()
	d.finishMetrics()
	d.finishRoutes()
	d.finishUpstreams()
	d.finishLimits()
	d.finishMissing()
	d.finishDemand()
	d.finishWorkless()
	d.finishVhosts()
	d.finishRun()
	d.finishUnknown()
	d.finishText()
	d.finishPlugins()
	d.finishOwn()
	d.finishWaits()
	d.finishHooks()
	d.finishAlarms()
	d.finishRoot()
}

// finishEnv closes up the places of variables that were taken out.
func (d *decoder) finishEnv() {
	env, at := d.cfg.App.Env, d.cfg.EnvAt
	d.cfg.App.Env, d.cfg.EnvAt = env[:0], at[:0]
	for i, kv := range env {
		if kv != "" {
			d.cfg.App.Env, d.cfg.EnvAt = append(d.cfg.App.Env, kv), append(d.cfg.EnvAt, at[i])
		}
	}
}

// finishApp joins what several lines say about the app.
func (d *decoder) finishApp() {
	d.finishEnv()
	d.finishCrew()
	h := &d.cfg.App.HTTP
	if d.ioTimeout > 0 {
		h.WriteTimeout, h.IdleTimeout, h.BodyTimeout = d.ioTimeout, d.ioTimeout, d.ioTimeout
	}
	if d.bodyTimeout > 0 {
		h.BodyTimeout = d.bodyTimeout
	}
	if r := &d.cfg.Restart; r.BackoffMax < r.BackoffMin {
		r.BackoffMax = r.BackoffMin
	}
	d.finishMounts()
	if d.py.File == "" && d.py.Module == "" {
		return
	}
	if mod, callable, ok := strings.Cut(d.py.Module, ":"); ok && d.py.Form == vassal.FormModule {
		d.py.Module = mod
		if callable != "" {
			d.py.Callable = callable
		}
	}
	d.py.Callable = cmp.Or(d.py.Callable, "application")
	d.work.Python = &d.py
	d.cfg.App.Workers = &d.work
}

// finishListen gives every listener what one line says for all.
func (d *decoder) finishListen() {
	if d.backlog == 0 {
		d.backlog = defaultBacklog
	} else {
		d.work.Waiting = d.backlog
	}
	if o := d.pol.OnDemand; o != nil {
		d.cfg.Listen = append(d.cfg.Listen, vassal.Listener{Address: o.Address, Key: o.Key, At: o.Origin})
	}
	d.atMost("listeners", len(d.cfg.Listen), maxListeners)
	d.atMost("paths", len(d.cfg.Jail.Named)+len(d.cfg.Jail.Binds), maxPaths)
	d.atMost("watched files", len(d.cfg.Touch), maxTouch)
	for i := range d.cfg.Listen {
		l := &d.cfg.Listen[i]
		l.Backlog = d.backlog
		if l.Protocol == "" {
			l.Protocol = cmp.Or(d.proto, vassal.UWSGI)
		}
		if l.Protocol != vassal.Stats {
			l.Mode, l.Chown = d.mode, d.chown
		}
	}
}

// What one vassal may name: each costs the Emperor a look at the host.
const (
	maxListeners = 64
	maxPaths     = 512
	maxTouch     = 64
)

func (d *decoder) atMost(what string, n, limit int) {
	if n > limit {
		d.err(vassal.CodeTooBig, Setting{}, fmt.Sprintf("names %d %s; at most %d are allowed", n, what, limit), "")
	}
}

// finishLimits turns limit-nproc into pids-max and applies the ceilings: a
// value over one is an error with both lines; without a value the ceiling
// holds.
func (d *decoder) finishLimits() {
	l := &d.cfg.Limits
	if d.nproc != nil && d.nproc.n > 0 {
		l.PidsMax, l.PidsMaxAt = d.nproc.n+CorePids, d.nproc.Origin
	}
	mem, pids := float64(l.MemoryMax), float64(l.PidsMax)
	d.ceiling("memory-max", &mem, &l.MemoryMaxAt, d.pol.MemoryMax, func(f float64) string { return sizeText(int64(f)) })
	d.ceiling("cpu-max", &l.CPUMax, &l.CPUMaxAt, d.pol.CPUMax, func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) })
	d.ceiling("pids-max", &pids, &l.PidsMaxAt, d.pol.PidsMax, func(f float64) string { return strconv.FormatInt(int64(f), 10) })
	l.MemoryMax, l.PidsMax = int64(mem), int64(pids)
	d.shareCeilings()
	if l.PidsMax == 0 && !d.pol.Serve {
		l.PidsMax, l.PidsMaxAt = DefaultPids, vassal.Origin{Layer: vassal.BuiltIn}
	}
}

func (d *decoder) ceiling(key string, val *float64, at *vassal.Origin, c Ceiling, text func(float64) string) {
	switch {
	case c.Value == 0 || *val > 0 && *val <= c.Value:
	case *val == 0:
		*val, *at = c.Value, vassal.Origin{File: c.At.File, Line: c.At.Line, Layer: vassal.Enforced}
	case d.nproc != nil && key == "pids-max":
		d.err(vassal.CodeOverCeiling, d.nproc.Setting,
			fmt.Sprintf("%d and %d for the core make %s, over the ceiling of %s (%s:%d)", d.nproc.n, CorePids, text(*val), text(c.Value), c.At.File, c.At.Line), "")
	default:
		d.err(vassal.CodeOverCeiling, Setting{Key: key, Origin: *at},
			fmt.Sprintf("%s is over the ceiling of %s (%s:%d)", text(*val), text(c.Value), c.At.File, c.At.Line), fmt.Sprintf("%s = %s or less", key, text(c.Value)))
	}
}

// sizeText shows bytes in the largest unit that fits.
func sizeText(n int64) string {
	for _, u := range []struct {
		bytes int64
		name  string
	}{{1 << 40, "T"}, {1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return fmt.Sprintf("%d%s", n/u.bytes, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

// hasApp reports whether a request would be answered by anything.
func (d *decoder) hasApp() bool {
	s, r := d.cfg.App.Static, d.cfg.App.Routing
	return d.cfg.App.Workers != nil && !d.alone || d.cfg.App.Exec != nil || d.cfg.App.PHP != nil || d.cfg.App.Forward != nil || d.cfg.App.CGI != nil || s.Any() || r != nil && len(r.Request) > 0
}

func (d *decoder) hasListener() bool { return len(d.cfg.Listen) > 0 }

// finishMissing says, once per consequence, what will be missing; it is an
// error when nothing could be served without it.
func (d *decoder) finishMissing() {
	type key struct {
		effect string
		sev    vassal.Severity
	}
	var order []key
	lines := map[key][]Setting{}
	for _, p := range d.missing {
		if p.opt.Type == Bool && !p.s.Bare && isFalse(firstWord(p.s.Value)) {
			continue // switched off: nothing is missing
		}
		k := key{p.opt.Effect, d.severityOf(p.opt)}
		if lines[k] == nil {
			order = append(order, k)
		}
		lines[k] = append(lines[k], p.s)
	}
	for _, k := range order {
		ss := lines[k]
		d.add(k.sev, vassal.CodeNotYet, ss[0], "not yet: "+k.effect+others(ss), "")
	}
}

// others names the further lines that a message stands for.
func others(ss []Setting) string {
	var words []string
	for _, s := range ss[1:] {
		if len(words) == 8 {
			words = append(words, "…")
			break
		}
		word := fmt.Sprintf("line %d", s.Origin.Line)
		if s.Key != ss[0].Key {
			word = fmt.Sprintf("%s, line %d", s.Key, s.Origin.Line)
		}
		words = append(words, word)
	}
	if words == nil {
		return ""
	}
	return " (also " + strings.Join(words, "; ") + ")"
}

func (d *decoder) severityOf(o *Option) vassal.Severity {
	app, listener := d.hasApp(), d.hasListener()
	switch {
	case o.Serves == ServesApp && !app, o.Serves == ServesSocket && !listener, o.Serves == ServesJob && !app && !listener,
		o.Serves == ServesGuard:
		return vassal.Error
	}
	return vassal.Warning
}

// finishWorkless refuses processes = 0 with something that serves: uWSGI then
// answers nothing. Vassals of daemons alone have such a line.
func (d *decoder) finishWorkless() {
	if v := d.workless; v.opt != nil && v.n == 0 && d.hasApp() {
		d.err(vassal.CodeBadValue, v.Setting, "0: nobody would answer", "processes = %k, or remove the line")
	}
}

// finishRun says when there is nothing to run, or no way in.
func (d *decoder) finishRun() {
	pend := func(kinds ...Serves) bool {
		return slices.ContainsFunc(d.missing, func(p pending) bool { return slices.Contains(kinds, p.opt.Serves) })
	}
	top := Setting{Origin: vassal.Origin{File: d.f.Source.Path}}
	switch app, listener := d.hasApp(), d.hasListener(); {
	case !app && d.works():
		d.unanswered()
	case !app && !listener && !pend(ServesApp, ServesSocket, ServesJob):
		d.err(vassal.CodeNothingToRun, top, "nothing to run", "a template? keep it in another directory or name it .inc")
	case !app && listener && !pend(ServesApp):
		d.err(vassal.CodeNothingToRun, Setting{Key: d.cfg.Listen[0].Key, Origin: d.cfg.Listen[0].At}, "nothing to run: no line names an app or static files",
			"wsgi-file = app.py, module = package.module:app, or check-static = DIRECTORY")
	case app && !listener && d.pol.Serve:
		d.err(vassal.CodeNoListener, top, "no address to serve on", "--http :8080")
	case app && !listener && !pend(ServesSocket, ServesJob):
		// uWSGI ends too; and a mistyped key must not take the place of what serves.
		d.err(vassal.CodeNoListener, top, "no address to serve on", "http-socket = 127.0.0.1:8080, or socket = /run/liege/%n.sock")
	}
}

// works reports whether the vassal has something to do besides requests: what is
// good enough for a vassal (CONTRACT 12).
func (d *decoder) works() bool { return len(d.own.daemons) > 0 || len(d.job.Crons) > 0 || d.alone }

// unanswered warns about listeners of a vassal without an app. As in uWSGI they
// are there, and a stats listener tells how the vassal does.
func (d *decoder) unanswered() {
	var ss []Setting
	for i := range d.cfg.Listen {
		if l := &d.cfg.Listen[i]; l.Protocol != vassal.Stats {
			ss = append(ss, Setting{Key: l.Key, Origin: l.At})
		}
	}
	if len(ss) > 0 {
		d.warn(vassal.CodeNothingToRun, ss[0], "no line names an app or static files: every request is answered with 404"+others(ss), "remove the line, or name the app")
	}
}

// maxNearest is for how many unknown keys of one file a similar one is looked
// for.
const maxNearest = 32

// finishUnknown reports keys that no option has and no %(…) refers to.
func (d *decoder) finishUnknown() {
	strict := d.pol.Strict || d.f.Strict
	count := map[string]int{}
	for _, s := range d.unknown {
		count[s.Key]++
	}
	asked := 0 // Nearest looks at the whole table: a file of nothing but mistakes must not cost seconds
	for _, s := range d.unknown {
		n := count[s.Key]
		if n == 0 || !strict && s.Used {
			continue
		}
		count[s.Key] = 0
		msg, hint := "unknown", ""
		if asked++; asked <= maxNearest {
			if near := Nearest(s.Key); near != "" {
				msg, hint = fmt.Sprintf("unknown; did you mean %s?", near), near+" = …"
			}
		}
		if n > 1 {
			msg += fmt.Sprintf(" (%d lines)", n)
		}
		sev := vassal.Warning
		if strict || d.tenant(s) {
			sev = vassal.Error
		}
		d.add(sev, vassal.CodeUnknownOption, s, msg, hint)
	}
}

// finishText is one line for all values that look like something else.
func (d *decoder) finishText() {
	if n := len(d.comments); n == 1 {
		d.warn(vassal.CodeCommentInValue, d.comments[0], "the text after the blank is part of the value; comments need a line of their own", "")
	} else if n > 1 {
		d.warn(vassal.CodeCommentInValue, d.comments[0], fmt.Sprintf("%d values end in a comment (lines %s); comments need a line of their own", n, lineList(d.comments)), "")
	}
	if n := len(d.quoted); n == 1 {
		d.warn(vassal.CodeQuotedValue, d.quoted[0], "the quotes are part of the value", "write it without quotes")
	} else if n > 1 {
		d.warn(vassal.CodeQuotedValue, d.quoted[0], fmt.Sprintf("%d values are in quotes (lines %s); the quotes are part of the value", n, lineList(d.quoted)), "write them without quotes")
	}
	d.finishTrailing()
}

// finishTrailing is the same for numbers and switches.
func (d *decoder) finishTrailing() {
	if n := len(d.rest); n == 1 {
		d.warn(vassal.CodeTrailingText, d.rest[0].s, fmt.Sprintf("%s counts, the rest has no effect", d.rest[0].used), "comments need a line of their own")
	} else if n > 1 {
		var ss []Setting
		for _, r := range d.rest {
			ss = append(ss, r.s)
		}
		d.warn(vassal.CodeTrailingText, ss[0], fmt.Sprintf("%d values go on after their number or word (lines %s); the rest has no effect", n, lineList(ss)), "comments need a line of their own")
	}
}

// lineList is the lines of ss, shortened.
func lineList(ss []Setting) string {
	var b strings.Builder
	for i, s := range ss {
		if i == 8 {
			return b.String() + " …"
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.Itoa(s.Origin.Line))
	}
	return b.String()
}

// trailing notes that only the used part of a value counts.
func (d *decoder) trailing(s Setting, used string) {
	d.rest = append(d.rest, trail{s, used})
}

// trail is a value of which only a part counts.
type trail struct {
	s    Setting
	used string
}

// positive is v's duration; zero means the default, as uWSGI's zero does.
func (d *decoder) positive(v value, def time.Duration) time.Duration {
	if v.dur <= 0 {
		return def
	}
	return v.dur
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

// maxKept bounds what is kept before it is sorted.
const maxKept = 4 * MaxProblems

func (d *decoder) add(sev vassal.Severity, code string, s Setting, msg, hint string) {
	if len(d.ps) >= maxKept {
		d.more++
		d.moreFailed = d.moreFailed || sev == vassal.Error
		return
	}
	d.ps = append(d.ps, vassal.Problem{
		Severity: sev, Code: code, File: cmp.Or(s.Origin.File, d.f.Source.Path), Line: s.Origin.Line, Key: s.Key, Message: msg, Hint: hint,
	})
}

func (d *decoder) err(code string, s Setting, msg, hint string) {
	d.add(vassal.Error, code, s, msg, hint)
}

func (d *decoder) warn(code string, s Setting, msg, hint string) {
	d.add(vassal.Warning, code, s, msg, hint)
}

func (d *decoder) note(code string, s Setting, msg string) {
	d.add(vassal.Note, code, s, msg, "")
}

// problems are those found, the vassal's own file first, in the order of the
// lines.
func (d *decoder) problems() vassal.Problems {
	slices.SortStableFunc(d.ps, func(a, b vassal.Problem) int {
		own := func(p vassal.Problem) int {
			if p.File == d.f.Source.Path {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(own(a), own(b)), strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return d.cut()
}

// cut shortens a list that nobody would read to its end. Errors stay errors.
func (d *decoder) cut() vassal.Problems {
	if len(d.ps) <= MaxProblems && d.more == 0 {
		return d.ps
	}
	rest := d.ps[min(len(d.ps), MaxProblems):]
	sev := vassal.Warning
	if rest.Failed() || d.moreFailed {
		sev = vassal.Error
	}
	return append(slices.Clone(d.ps[:min(len(d.ps), MaxProblems)]), vassal.Problem{
		Severity: sev, Code: vassal.CodeTooBig, File: d.f.Source.Path, Message: fmt.Sprintf("%d more problems", len(rest)+d.more),
	})
}
