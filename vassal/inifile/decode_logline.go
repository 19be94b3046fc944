package inifile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/route"
)

// loggerFile reads PATH or logfile=PATH,maxsize=N,backupname=NAME.
func (d *decoder) loggerFile(v value, arg string) string {
	l := &d.cfg.App.Log
	if !strings.Contains(arg, "logfile=") {
		return arg
	}
	file := ""
	for item := range strings.SplitSeq(arg, ",") {
		name, text, _ := strings.Cut(item, "=")
		switch name {
		case "logfile":
			file = text
		case "maxsize":
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("maxsize=%s is not a number of bytes", clip(text)), "maxsize=10485760")
			}
			l.MaxSize = n
		case "backupname":
			l.Backup = text
		}
	}
	return file
}

// logger reads where all lines go: file:PATH is logto.
func (d *decoder) logger(v value) {
	kind, arg, _ := strings.Cut(v.Value, ":")
	if i := strings.LastIndexByte(kind, ' '); i >= 0 {
		kind = kind[i+1:]
	}
	switch {
	case kind == "file" && arg != "":
		if file, ok := strings.CutPrefix(arg, "logfile="); ok {
			arg, _, _ = strings.Cut(file, ",")
		}
		d.cfg.Logs.To, d.cfg.Logs.ToAt = arg, v.Origin
	case kind == "stdio", kind == "fd" && (arg == "1" || arg == "2"):
		d.cfg.Logs.To = ""
	default:
		d.warn(vassal.CodeNotYet, v.Setting, "this logger is not there yet: the lines go to the vassal's log", "logger = file:/path")
	}
}

// encoder reads NAME[ ARGUMENTS][:LOGGER]. There is one logger, so its name
// makes no difference; it follows the last colon, and only where no other text
// can hold one.
func (d *decoder) encoder(v value) {
	name, _, _ := strings.Cut(v.Value, " ")
	switch name, _, _ = strings.Cut(name, ":"); name {
	case "prefix", "suffix", "format", "json":
		d.cfg.App.Log.Encoders = append(d.cfg.App.Log.Encoders, v.Value)
	case "nl":
	default:
		d.warn(vassal.CodeNotYet, v.Setting, fmt.Sprintf("the encoder %q is not there yet: lines are logged without it", clip(name)), "log-req-encoder = json {\"line\":\"${msg}\"}")
	}
}

// expression reads an expression that PCRE's people wrote: see vassal/route.
func (d *decoder) expression(v value, pcre string) (text string, ok bool) {
	text, err := route.Translate(pcre)
	if err == nil {
		_, err = regexp.Compile(text)
	}
	if err != nil {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%.60q: %v", pcre, err), "")
	}
	return text, err == nil
}

// sieve reads the expression of log-drain and log-filter.
func (d *decoder) sieve(v value) {
	text, ok := d.expression(v, v.Value)
	if !ok {
		return
	}
	l := &d.cfg.App.Log
	if v.opt.Name == "log-drain" {
		l.Drain = append(l.Drain, text)
	} else {
		l.Filter = append(l.Filter, text)
	}
}

// finishLog has log-maxsize hold for the file of req-logger too, and a filter
// concern the vassal's log only, as in uWSGI.
func (d *decoder) finishLog() {
	l := &d.cfg.App.Log
	if l.To == "" {
		l.MaxSize, l.Backup = 0, ""
		return
	}
	l.Drain, l.Filter = nil, nil
	if _, said := d.seen["log-maxsize"]; said && l.MaxSize == 0 {
		l.MaxSize = d.cfg.Logs.MaxSize
	}
}
