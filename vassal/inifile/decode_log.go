package inifile

import (
	"path"
	"strings"
	"time"

	"liege/vassal"
)

// requestLog handles what is logged about requests, and where.
func (d *decoder) requestLog(v value) bool {
	l := &d.cfg.App.Log
	switch v.opt.Name {
	case "disable-logging":
		l.Disable = v.on
	case "log-format":
		l.Format = v.Value
	case "log-json":
		l.JSON = v.on
	case "log-x-forwarded-for":
		l.Forwarded = v.on
	case "log-4xx":
		l.Only.Client = v.on
	case "log-slow":
		l.Only.Slow = time.Duration(min(v.n, 1<<30)) * time.Millisecond
	case "log-zero":
		l.Only.Zero = v.on
	case "log-big":
		l.Only.Big = v.n
	case "log-sendfile":
		l.Only.Sendfile = v.on
	case "log-ioerror":
		l.Only.IOError = v.on
	case "req-logger":
		d.requestLogger(v)
	case "logger":
		d.logger(v)
	case "log-backupname":
		l.Backup = v.Value
	case "log-req-encoder":
		d.encoder(v)
	case "log-drain", "log-filter":
		d.sieve(v)
	default:
		return false
	}
	return true
}

// requestLogger reads [name ]file:PATH and [name ]file:logfile=PATH,…; stdio:
// and the descriptors 1 and 2 are the vassal's log. A name is for log-route,
// which is not there.
func (d *decoder) requestLogger(v value) {
	kind, arg, _ := strings.Cut(v.Value, ":")
	if i := strings.LastIndexByte(kind, ' '); i >= 0 {
		kind = kind[i+1:]
	}
	switch {
	case kind == "file" && arg != "":
		file := d.loggerFile(v, arg)
		if d.reqLog.Line > 0 {
			d.warn(vassal.CodeBadValue, v.Setting, "only one file is written; this one counts", "keep one of the lines")
		}
		d.reqLog, d.cfg.App.Log.To, d.cfg.App.Log.At = v.Origin, file, v.Origin
		if dir := path.Dir(file); dir != "." {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Access: vassal.AsHost, Key: v.Key, At: v.Origin})
		}
	case kind == "stdio", kind == "fd" && (arg == "1" || arg == "2"):
		d.cfg.App.Log.To = ""
	default:
		d.warn(vassal.CodeNotYet, v.Setting, "this logger is not there yet: the lines go to the vassal's log", "req-logger = file:/path")
	}
}
