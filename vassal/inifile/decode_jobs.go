package inifile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

// Bounds of a vassal's jobs: each mule and each spooler is a process.
const (
	maxMules      = 256
	maxSpoolers   = 64
	maxJobs       = 256 // of crons, timers and touched files each
	maxLocks      = 4096
	maxQueue      = 1 << 20 // 24 bytes each, used or not
	maxQueueBlock = 1 << 20
	maxMessage    = 16 << 20 // of a mule, in bytes
	noJob         = "write a number from 0 to 255"
	curlTime      = "30" // seconds that a URL of curl-cron may take
)

// jobs handles mules, spoolers, crons and what raises signals.
func (d *decoder) jobs(v value) bool {
	j := &d.job
	seconds := func(to *time.Duration) { *to = time.Duration(max(0, v.n)) * time.Second }
	switch v.opt.Name {
	case "mule", "mules", "farm":
		d.mule(v)
	case "mule-harakiri":
		seconds(&j.MuleHarakiri)
	case "mule-reload-mercy":
		seconds(&j.MuleMercy)
	case "mule-msg-size":
		j.MuleMessage = d.atMostOf(v, maxMessage)
	case "cron", "unique-cron", "cron2", "curl-cron":
		d.cron(v)
	case "cron-harakiri":
		seconds(&j.CronHarakiri)
	case "timer", "rbtimer":
		d.timer(v)
	case "touch-exec", "touch-signal", "fs-signal", "touch-mules-reload", "touch-spoolers-reload":
		d.touched(v)
	case "queue":
		j.Queue.Items = d.within(v, 0, maxQueue, "")
	case "queue-blocksize":
		j.Queue.Block = d.within(v, 0, maxQueueBlock, "")
	case "locks":
		j.Locks = d.within(v, 0, maxLocks, "")
	default:
		return d.spooler(v)
	}
	return true
}

// spooler handles spoolers.
func (d *decoder) spooler(v value) bool {
	s := &d.job.Spool
	switch v.opt.Name {
	case "spooler", "spooler-external":
		if len(d.job.Spoolers) == maxSpoolers {
			d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d spoolers", maxSpoolers), "")
			return true
		}
		d.job.Spoolers = append(d.job.Spoolers, vassal.Spooler{Dir: v.Value, External: v.opt.Name == "spooler-external", At: v.Origin})
		if path.IsAbs(v.Value) {
			d.named(v)
		}
	case "spooler-processes":
		s.Processes = d.atLeast(v, maxSpoolers)
	case "spooler-ordered":
		s.Ordered = v.on
	case "spooler-chdir":
		s.Dir = v.Value
	case "spooler-quiet":
		s.Quiet = v.on
	case "spooler-max-tasks":
		s.MaxTasks = max(0, int(v.n))
	case "spooler-harakiri":
		s.Harakiri = time.Duration(max(0, v.n)) * time.Second
	case "spooler-frequency":
		s.Frequency = time.Duration(max(0, v.n)) * time.Second
	case "spooler-import":
		s.Import = append(s.Import, v.Value)
	default:
		return false
	}
	return true
}

// mule reads mule, mules and farm lines.
func (d *decoder) mule(v value) {
	j := &d.job
	switch v.opt.Name {
	case "farm":
		name, list, ok := strings.Cut(v.Value, ":")
		f := vassal.Farm{Name: name, At: v.Origin}
		for word := range strings.SplitSeq(list, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(word))
			if ok = ok && err == nil && n > 0 && n <= maxMules; ok {
				f.Mules = append(f.Mules, n)
			}
		}
		if !ok || name == "" || slices.ContainsFunc(j.Farms, func(o vassal.Farm) bool { return o.Name == name }) {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no new name and numbers of mules", clip(v.Value)), "farm = mails:1,2")
			return
		}
		j.Farms = append(j.Farms, f)
		return
	case "mules":
		n, err := strconv.Atoi(firstWord(v.Value))
		if err != nil || n < 0 || n > maxMules {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no number from 0 to %d", clip(v.Value), maxMules), "mules = 2")
			return
		}
		for range n {
			j.Mules = append(j.Mules, vassal.Mule{At: v.Origin})
		}
	default:
		m := vassal.Mule{Run: v.Value, At: v.Origin}
		switch word := firstWord(v.Value); {
		case isFalse(word):
			return
		case !strings.HasSuffix(m.Run, ".py") && !strings.Contains(m.Run, ":"):
			m.Run = "" // nothing, or true: one that waits for messages
		case strings.HasSuffix(m.Run, ".py") && path.IsAbs(m.Run):
			d.named(v)
		}
		j.Mules = append(j.Mules, m)
	}
	if len(j.Mules) > maxMules {
		j.Mules = j.Mules[:maxMules]
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d mules", maxMules), "")
	}
}

// cron reads "min hour day month weekday command", or cron2's "key=value,…
// command".
func (d *decoder) cron(v value) {
	c := vassal.Cron{Minute: -1, Hour: -1, Day: -1, Month: -1, Week: -1, Unique: v.opt.Name == "unique-cron", At: v.Origin}
	fields := []*int{&c.Minute, &c.Hour, &c.Day, &c.Month, &c.Week}
	rest, ok := strings.TrimSpace(v.Value), true
	if v.opt.Name == "cron2" {
		var opts string
		if first := firstWord(rest); strings.Contains(first, "=") {
			opts, rest = first, strings.TrimSpace(rest[len(first):])
		}
		ok = d.cronKeys(&c, opts)
	} else {
		for _, f := range fields {
			word := firstWord(rest)
			n, err := strconv.Atoi(word)
			if err != nil {
				ok = false
				break
			}
			*f, rest = n, strings.TrimSpace(rest[len(word):])
		}
	}
	for i, most := range []int{59, 23, 31, 12, 7} {
		ok = ok && *fields[i] >= -1000 && *fields[i] <= most
	}
	switch {
	case !ok || rest == "":
		d.err(vassal.CodeBadValue, v.Setting, "is no time and command", "cron = 59 2 -1 -1 -1 /usr/bin/backup (minute, hour, day, month, weekday; -1: any; -5: each fifth), or cron2 = minute=-5,unique=1 COMMAND")
		return
	case len(d.job.Crons) == maxJobs:
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d crons", maxJobs), "")
		return
	}
	if c.Command = rest; v.opt.Name == "curl-cron" {
		c.Command = "exec curl -sS --max-time " + curlTime + " -- " + quoted(rest)
	}
	d.job.Crons = append(d.job.Crons, c)
}

// cronKeys reads the keys of cron2.
func (d *decoder) cronKeys(c *vassal.Cron, opts string) bool {
	for kv := range strings.SplitSeq(opts, ",") {
		if kv == "" {
			continue
		}
		key, val, _ := strings.Cut(kv, "=")
		n, err := strconv.Atoi(val)
		if err != nil {
			return false
		}
		switch key {
		case "minute":
			c.Minute = n
		case "hour":
			c.Hour = n
		case "day":
			c.Day = n
		case "month":
			c.Month = n
		case "week":
			c.Week = n
		case "unique":
			c.Unique = n != 0
		case "harakiri":
			c.Harakiri = time.Duration(max(0, n)) * time.Second
		default:
			return false
		}
	}
	return true
}

// timer reads "17 60": a signal and seconds.
func (d *decoder) timer(v value) {
	word := firstWord(v.Value)
	n, err := strconv.Atoi(word)
	secs, err2 := strconv.Atoi(firstWord(strings.TrimSpace(v.Value[strings.Index(v.Value, word)+len(word):])))
	switch {
	case err != nil || err2 != nil || n < 0 || n > 255 || secs < 1 || secs > 1<<30:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no signal and number of seconds", clip(v.Value)), v.opt.Name+" = 17 60; "+noJob)
	case len(d.job.Timers) == maxJobs:
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d timers", maxJobs), "")
	default:
		d.job.Timers = append(d.job.Timers, vassal.Timer{Signal: n, Every: time.Duration(secs) * time.Second, At: v.Origin})
	}
}

// touched reads what is done when a path changes.
func (d *decoder) touched(v value) {
	t := vassal.Touch{Path: firstWord(v.Value), At: v.Origin}
	rest := strings.TrimSpace(strings.TrimSpace(v.Value)[len(t.Path):])
	switch v.opt.Name {
	case "touch-mules-reload":
		t.Mules = true
	case "touch-spoolers-reload":
		t.Spoolers = true
	case "touch-exec":
		t.Exec = rest
		if rest == "" {
			d.err(vassal.CodeBadValue, v.Setting, "names no command", "touch-exec = /srv/shop/flag /usr/bin/command")
			return
		}
	default:
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n > 255 {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no path and signal", clip(v.Value)), v.opt.Name+" = /srv/shop/flag 17; "+noJob)
			return
		}
		t.Signal = &n
	}
	if len(d.job.Touches) == maxJobs {
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d files to look at", maxJobs), "")
		return
	}
	d.job.Touches = append(d.job.Touches, t)
	if dir := path.Dir(t.Path); path.IsAbs(t.Path) && strings.Count(dir, "/") > 1 && dir != "/var/tmp" && dir != "/dev/shm" && !strings.HasPrefix(dir, "/tmp/") {
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Access: vassal.ReadOnly, Key: v.Key, At: v.Origin})
	}
}

// noApp is what answers requests beside mules and spoolers that have no application.
const noApp = `def application(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no application\n"]
`

// finishAlone makes the Python in which mules and spoolers run where no line names
// an application: what import names is loaded, as by uWSGI.
func (d *decoder) finishAlone() {
	at, ok := d.besides()
	served := d.cfg.App.Workers != nil || len(d.own.exec.Command) > 0 || d.own.phpAt != (vassal.Origin{}) || d.asksForPHP() || len(d.cgis.Mounts) > 0 || d.cgis.Docroot
	if !ok || served {
		return
	}
	d.py.Form, d.py.Module, d.py.Callable, d.py.At, d.py.Key = vassal.FormEval, noApp, "application", at.Origin, at.Key
	d.work.Python = &d.py
	d.cfg.App.Workers, d.alone = &d.work, true
}

// besides is the first line of mules and spoolers that run here.
func (d *decoder) besides() (Setting, bool) {
	if ms := d.job.Mules; len(ms) > 0 {
		return Setting{Key: "mule", Origin: ms[0].At}, true
	}
	if i := slices.IndexFunc(d.job.Spoolers, func(s vassal.Spooler) bool { return !s.External }); i >= 0 {
		return Setting{Key: "spooler", Origin: d.job.Spoolers[i].At}, true
	}
	return Setting{}, false
}

// finishJobs gives the app its jobs.
func (d *decoder) finishJobs() {
	j := &d.job
	for _, f := range j.Farms {
		for _, n := range f.Mules {
			if n > len(j.Mules) {
				d.err(vassal.CodeBadValue, Setting{Key: "farm", Origin: f.At}, fmt.Sprintf("%s names mule %d; there are %d", f.Name, n, len(j.Mules)), "mules = "+strconv.Itoa(n))
			}
		}
	}
	if len(j.Mules)+len(j.Spoolers)+len(j.Crons)+len(j.Timers)+len(j.Touches)+len(j.Alarms)+len(j.LogAlarms)+j.Locks+j.Queue.Items == 0 {
		return
	}
	if at, ok := d.besides(); ok && (d.cfg.App.Workers == nil || d.cfg.App.Workers.Language != "python") {
		d.warn(vassal.CodeNotYet, at, "mules and spoolers run Python apps only: none is started", "")
	}
	if l := (vassal.ProcessLimits{Rlimits: slices.Clone(d.work.Rlimits), Nice: d.work.Nice, Umask: d.work.Umask}); len(l.Rlimits) > 0 || l.Nice != 0 || l.Umask != nil {
		j.Limits = &l
	}
	d.cfg.App.Jobs = j
}
