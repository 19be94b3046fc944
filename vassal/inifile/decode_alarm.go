package inifile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/action"
)

const (
	maxAlarmSize = 64 << 10 // bytes
	alarmForm    = "alarm = down log:, cmd:COMMAND, signal:17, mule:1 or curl:URL"
)

// alarms handles who is told what.
func (d *decoder) alarms(v value) bool {
	j := &d.job
	switch v.opt.Name {
	case "alarm":
		d.alarm(v)
	case "alarm-freq":
		j.AlarmFreq = time.Duration(d.atMostOf(v, 1<<30)) * time.Second
	case "alarm-msg-size":
		j.AlarmSize = d.atMostOf(v, maxAlarmSize)
	case "alarm-backlog":
		j.OnFull = append(j.OnFull, d.raised(v))
	case "alarm-segfault":
		j.OnCrash = append(j.OnCrash, d.raised(v))
	case "log-alarm", "not-log-alarm":
		d.logAlarm(v)
	default:
		return false
	}
	return true
}

// raised is the alarm that v names.
func (d *decoder) raised(v value) string {
	name := strings.TrimSpace(v.Value)
	d.raises = append(d.raises, raising{name, v.Setting})
	return name
}

// logAlarm reads "NAME[,NAME] EXPRESSION".
func (d *decoder) logAlarm(v value) {
	names := firstWord(v.Value)
	text := strings.TrimSpace(strings.TrimSpace(v.Value)[len(names):])
	switch {
	case text == "":
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no alarm and an expression", clip(v.Value)), v.opt.Name+" = down MemoryError")
		return
	case len(d.job.LogAlarms) == maxJobs:
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d lines", maxJobs), "")
		return
	}
	match, ok := d.expression(v, text)
	if !ok {
		return
	}
	x := vassal.LogAlarm{Names: strings.Split(names, ","), Match: match, Not: v.opt.Name == "not-log-alarm", At: v.Origin}
	d.job.LogAlarms = append(d.job.LogAlarms, x)
	for _, name := range x.Names {
		d.raises = append(d.raises, raising{name, v.Setting})
	}
}

// raising is a place that raises an alarm by its name.
type raising struct {
	name string
	at   Setting
}

// alarm reads "NAME TYPE:ARGUMENT".
func (d *decoder) alarm(v value) {
	name := firstWord(v.Value)
	kind, arg, ok := strings.Cut(strings.TrimSpace(strings.TrimSpace(v.Value)[len(name):]), ":")
	a := vassal.Alarm{Name: name, At: v.Origin}
	bad := func(what, hint string) { d.err(vassal.CodeBadValue, v.Setting, what, hint) }
	n, notNumber := strconv.ParseUint(strings.TrimSpace(arg), 10, 8)
	switch {
	case name == "" || !ok:
		bad(fmt.Sprintf("%q is no name and TYPE:ARGUMENT", clip(v.Value)), alarmForm)
		return
	case len(d.job.Alarms) == maxJobs:
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d alarms", maxJobs), "")
		return
	}
	switch kind {
	case "log":
	case "cmd":
		if a.Command = strings.TrimSpace(arg); a.Command == "" {
			bad("cmd: names no command", "alarm = "+name+" cmd:/srv/shop/tell")
			return
		}
	case "signal":
		if notNumber != nil {
			bad(fmt.Sprintf("%q is no signal", clip(arg)), noJob)
			return
		}
		sig := int(n)
		a.Signal = &sig
	case "mule":
		if notNumber != nil || n == 0 {
			bad(fmt.Sprintf("%q is no number of a mule", clip(arg)), "they are counted from 1")
			return
		}
		a.Mule = int(n)
	case "curl":
		if a.Command, ok = curlAlarm(arg); !ok {
			bad("curl: is no URL of http or https with the keys method and timeout", "alarm = "+name+" curl:https://example.com/alarm;method=POST, or cmd: with a program that does it")
			return
		}
	default:
		d.warn(vassal.CodeNotYet, v.Setting, fmt.Sprintf("there are no alarms of type %q: this one is written to the log", clip(kind)), alarmForm)
	}
	d.job.Alarms = append(d.job.Alarms, a)
}

// curlAlarm is the command that sends an alarm to "URL;key=value…".
func curlAlarm(arg string) (command string, ok bool) {
	url, opts, _ := strings.Cut(strings.TrimSpace(arg), ";")
	method, timeout := "PUT", curlTime
	for kv := range strings.SplitSeq(opts, ";") {
		key, val, _ := strings.Cut(kv, "=")
		switch key {
		case "":
		case "method":
			if method = val; val == "" || strings.Trim(val, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
				return "", false
			}
		case "timeout":
			if n, err := strconv.Atoi(val); err != nil || n < 1 {
				return "", false
			}
			timeout = val
		default:
			return "", false
		}
	}
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return "", false
	}
	return "exec curl -sS --max-time " + timeout + " -X " + method + " -H 'Content-Type: text/plain' --data-binary @- -- " + quoted(url), true
}

// quoted is one word for the shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// finishAlarms looks at who is told, and at what raises alarms: uWSGI says
// nothing about a name that no alarm has.
func (d *decoder) finishAlarms() {
	j := &d.job
	for i := range j.Alarms {
		if a := &j.Alarms[i]; a.Mule > len(j.Mules) {
			d.err(vassal.CodeBadValue, Setting{Key: "alarm", Origin: a.At}, fmt.Sprintf("names mule %d; there are %d", a.Mule, len(j.Mules)), "mules = "+strconv.Itoa(a.Mule))
		}
	}
	if all := d.cfg.App.Routing; all != nil {
		for _, r := range slices.Concat(all.Request, all.Error, all.Response, all.Final) {
			if r.Action == "alarm" {
				d.raises = append(d.raises, raising{firstWord(r.ActionArg), Setting{Key: r.Key, Origin: r.At}})
			}
		}
	}
	for _, h := range d.cfg.Hooks {
		if h.Action == string(action.Alarm) && !h.Private {
			d.raises = append(d.raises, raising{firstWord(h.Arg), Setting{Key: h.Option(), Origin: h.At}})
		}
	}
	for _, r := range d.raises {
		if !slices.ContainsFunc(j.Alarms, func(a vassal.Alarm) bool { return a.Name == r.name }) {
			d.warn(vassal.CodeBadValue, r.at, fmt.Sprintf("no alarm is called %q: what it says goes to the log", clip(r.name)), alarmForm)
		}
	}
}
