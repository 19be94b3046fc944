package inifile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// own is what lines say about servers of the app's own, PHP and daemons.
type own struct {
	exec    vassal.Exec
	php     vassal.PHP
	phpAt   vassal.Origin // of the line that asks for PHP; none: there is none
	daemons []vassal.Daemon

	overlap bool // a line says yes or no
}

// program handles exec.
func (d *decoder) program(v value) bool {
	x := &d.own.exec
	switch v.opt.Name {
	case "exec":
		d.execLine(v)
	case "exec-ready":
		if !strings.HasPrefix(v.Value, "/") || strings.ContainsAny(v.Value, " \t\r\n") {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a path of the server", clip(v.Value)), "exec-ready = /healthz")
			return true
		}
		x.Ready = v.Value
	case "exec-protocol":
		switch v.Value {
		case "http", "h2c":
			x.H2C = v.Value == "h2c"
		default:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q: the program of exec is spoken to by http (HTTP/1.1) or h2c (HTTP/2 without TLS)", clip(v.Value)), "exec-protocol = h2c")
		}
	case "exec-port":
		x.Port = d.within(v, 1, 65535, "exec-port = 3000")
	default:
		return false
	}
	return true
}

func (d *decoder) execLine(v value) {
	x := &d.own.exec
	if len(x.Command) > 0 {
		d.err(vassal.CodeTwoApps, v.Setting, fmt.Sprintf("line %d names a program already", x.At.Line), "one vassal file for each; a helper beside it: attach-daemon = …")
		return
	}
	words, err := splitWords(v.Value)
	if err != nil {
		d.err(vassal.CodeBadValue, v.Setting, err.Error(), "exec = node server.js")
		return
	}
	x.Command, x.At = words, v.Origin
	if dir := path.Dir(words[0]); path.IsAbs(dir) && !slices.ContainsFunc([]string{"/usr/", "/bin/", "/sbin/"}, func(p string) bool { return strings.HasPrefix(dir+"/", p) }) {
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Key: v.Key, At: v.Origin})
	}
	if i := slices.IndexFunc(words, shellWord); i > 0 {
		d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("no shell runs it: %s is an argument of the program", words[i]), "exec = /bin/sh -c '…'")
	}
	if name, _, ok := strings.Cut(words[0], "="); ok && !strings.Contains(name, "/") {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("no shell runs it: %s is no program", clip(words[0])), "env = "+clip(words[0]))
	}
}

// phpLine handles PHP.
func (d *decoder) phpLine(v value) bool {
	p := &d.own.php
	list := map[string]*[]string{
		"php-index": &p.Index, "php-allowed-ext": &p.AllowedExt, "php-allowed-docroot": &p.AllowedDocroot, "php-allowed-script": &p.AllowedScript,
		"php-ini-append": &p.INIAppend, "php-exec-before": &p.Before, "php-exec-after": &p.After,
	}
	one := map[string]*string{
		"php-docroot": &p.Docroot, "php-app": &p.App, "php-app-qs": &p.AppQS, "php-fallback": &p.Fallback, "php-fallback2": &p.Fallback2,
		"php-fallback-qs": &p.FallbackQS, "php-ini": &p.INI, "php-server-software": &p.Software,
	}
	switch name := v.opt.Name; {
	case list[name] != nil:
		*list[name] = append(*list[name], v.Value)
	case one[name] != nil:
		*one[name] = v.Value
	case name == "php-set" || name == "php-var" || name == "php-constant":
		d.phpPair(v)
	case name == "php-app-bypass":
		if d.sendingRegexp(v, v.Value) {
			p.AppBypass = append(p.AppBypass, v.Value)
		}
	case name == "php-dump-config":
		p.DumpConfig = true
	default:
		return false
	}
	if at := map[string]*vassal.Origin{"php-docroot": &p.DocrootAt, "php-app": &p.AppAt, "php-fallback": &p.FallbackAt}[v.opt.Name]; at != nil {
		*at, d.own.phpAt = v.Origin, cmp.Or(d.own.phpAt, v.Origin)
	}
	d.named(v)
	return true
}

// phpPair reads NAME=value.
func (d *decoder) phpPair(v value) {
	p := &d.own.php
	name, text, ok := strings.Cut(v.Value, "=")
	name = strings.TrimSpace(name)
	bad := strings.ContainsAny(name, " \t\n;[]\"'$()") || name == "" || strings.ContainsAny(text, "\x00\n")
	if !ok || bad {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not written as NAME=value", clip(v.Value)), v.opt.Name+" = NAME=value")
		return
	}
	switch v.opt.Name {
	case "php-set":
		p.Set = append(p.Set, name+"="+text)
	case "php-var":
		p.Vars = append(p.Vars, name+"="+text)
	default:
		literal := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
		p.Before = append(p.Before, "define('"+literal(name)+"', '"+literal(text)+"');")
	}
}

// daemonLine handles attach-daemon and its kin.
func (d *decoder) daemonLine(v value) bool {
	n := vassal.Daemon{Command: v.Value, At: v.Origin}
	switch v.opt.Name {
	case "attach-daemon":
	case "attach-control-daemon":
		n.Control = true
	case "smart-attach-daemon", "smart-attach-daemon2":
		pid, command, ok := strings.Cut(v.Value, " ")
		if !ok || strings.TrimSpace(command) == "" {
			d.err(vassal.CodeBadValue, v.Setting, "names no pid file and command", v.opt.Name+" = /tmp/redis.pid redis-server redis.conf")
			return true
		}
		n.PidFile, n.Command, n.Forks = pid, strings.TrimSpace(command), v.opt.Name == "smart-attach-daemon"
	case "attach-daemon2":
		if !d.daemonPairs(v, &n) {
			return true
		}
	default:
		return false
	}
	if strings.TrimSpace(n.Command) == "" || strings.IndexByte(n.Command, 0) >= 0 {
		d.err(vassal.CodeBadValue, v.Setting, "names no command", "attach-daemon = memcached -p 11311")
		return true
	}
	if len(d.own.daemons) == maxDaemons {
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d daemons", maxDaemons), "")
		return true
	}
	d.own.daemons = append(d.own.daemons, n)
	return true
}

const maxDaemons = 64

// daemonPairs reads the form of attach-daemon2. uid and gid have no effect: a
// daemon runs as the vassal's user.
func (d *decoder) daemonPairs(v value, n *vassal.Daemon) bool {
	pairs, err := keyvals(v.Value)
	if err != nil {
		d.err(vassal.CodeBadValue, v.Setting, err.Error(), "attach-daemon2 = cmd=memcached,stopsignal=15")
		return false
	}
	n.Command = ""
	for _, kv := range pairs {
		key, text := kv[0], kv[1]
		switch key {
		case "command", "cmd", "exec":
			n.Command = text
		case "pidfile":
			n.PidFile = text
		case "control":
			n.Control = text == "" || !isFalse(text)
		case "daemonize", "daemon":
			n.Forks = text == "" || !isFalse(text)
		case "touch":
			n.Touch = append(n.Touch, strings.FieldsFunc(text, func(r rune) bool { return r == ';' })...)
		case "stopsignal", "stop_signal":
			n.Stop = d.signal(v, text)
		case "reloadsignal", "reload_signal":
			n.Reload = d.signal(v, text)
		case "chdir":
			n.Dir = text
		case "uid", "gid":
			d.note(vassal.CodeDoneOtherwise, v.Setting, key+" has no effect: a daemon runs as the vassal's user")
		case "freq", "ns_pid", "max_throttle", "stdin", "notifypid", "honour_stdin":
			d.note(vassal.CodeAlwaysSo, v.Setting, key+" has no effect: an end is noticed at once, and followed by a pause that grows; the pids are the vassal's own; standard input is empty")
		default:
			d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no key of attach-daemon2", clip(key)), "cmd=…,pidfile=…,touch=…,stopsignal=…")
		}
	}
	n.Forks = n.Forks && n.PidFile != ""
	return true
}

// signal reads the number or name of a signal.
func (d *decoder) signal(v value, text string) int {
	s := syscall.Signal(0)
	if n, err := strconv.Atoi(text); err == nil {
		s = syscall.Signal(n)
	} else {
		s = unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG"))
	}
	if s < 1 || s > 64 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no signal", clip(text)), "stopsignal=15")
		return 0
	}
	return int(s)
}

// finishServers joins what several lines say about servers of the app's own.
func (d *decoder) finishServers() {
	var limits *vassal.ProcessLimits
	if l := (vassal.ProcessLimits{Rlimits: slices.Clone(d.work.Rlimits), Nice: d.work.Nice, Umask: d.work.Umask}); len(l.Rlimits) > 0 || l.Nice != 0 || l.Umask != nil {
		limits = &l
	}
	a, w := &d.cfg.App, &d.work
	start := w.LoadTimeout * 9 / 10 // so that the core says why before the Emperor gives up
	if x := &d.own.exec; len(x.Command) > 0 {
		x.Processes, x.MaxRequests, x.Harakiri, x.StartTimeout, x.Limits = w.Processes, w.MaxRequests, w.Harakiri, start, limits
		a.Exec = x
		line := Setting{Key: "exec", Origin: x.At}
		if a.Workers != nil {
			d.err(vassal.CodeTwoApps, line, "another line names an app: a vassal has one", "one vassal file for each")
		}
		if x.Port > 0 && x.Processes > 1 {
			d.err(vassal.CodeBadValue, line, fmt.Sprintf("%d processes cannot all listen on port %d", x.Processes, x.Port), "processes = 1, or no exec-port line and $PORT in the program")
		}
	}
	if p := &d.own.php; d.own.phpAt != (vassal.Origin{}) || d.asksForPHP() {
		p.At, p.Processes, p.MaxRequests, p.Harakiri, p.StartTimeout, p.Limits = d.own.phpAt, w.Processes, w.MaxRequests, w.Harakiri, start, limits
		d.finishPHP(p)
	}
	for i := range d.own.daemons {
		d.own.daemons[i].Limits = limits
	}
	a.Daemons = d.own.daemons
	if !d.own.overlap && d.cfg.Jail.Net == "host" && (a.Exec != nil || len(a.Daemons) > 0) {
		d.cfg.Restart.Overlap = false // two would fight for ports (CONTRACT 18)
	}
}

// asksForPHP reports whether PHP answers although no line names where its
// files are: a front end's DOCUMENT_ROOT does.
func (d *decoder) asksForPHP() bool {
	if d.plugins["php"] && d.cfg.App.Workers == nil && d.cfg.App.Exec == nil && len(d.cgis.Mounts) == 0 && !d.cgis.Docroot {
		return true
	}
	return slices.ContainsFunc([]string{"http-modifier1", "http-socket-modifier1"}, func(key string) bool { return d.modifier[key].n == modPHP })
}

func (d *decoder) finishPHP(p *vassal.PHP) {
	if len(p.AllowedExt) == 0 {
		p.AllowedExt = []string{".php"}
	}
	if len(p.Index) == 0 {
		p.Index = []string{"index.php"}
	}
	for _, name := range p.Index {
		if strings.ContainsAny(name, "/\x00") {
			d.err(vassal.CodeBadValue, Setting{Key: "php-index", Origin: d.seen["php-index"]}, fmt.Sprintf("%q is not the name of a file", clip(name)), "php-index = index.php")
		}
	}
	if p.At == (vassal.Origin{}) {
		p.At = cmp.Or(d.seen["plugins"], d.seen["http-socket-modifier1"], d.seen["http-modifier1"])
	}
	if d.cfg.App.Workers == nil {
		p.Program = d.work.Interpreter
	}
	if g := d.interpreters["php"]; g != nil && p.Program == "" {
		p.Program = d.take(g)
	}
	p.Version = phpVersion(d.f.Settings)
	// The source of a script is never sent.
	s := &d.cfg.App.Static
	for _, ext := range append([]string{".php"}, p.AllowedExt...) {
		if s.Any() && !slices.Contains(s.SkipExt, ext) {
			s.SkipExt = append(s.SkipExt, ext)
		}
	}
	d.cfg.App.PHP = p
}

// phpVersion is the version that a plugins line asks for: php74, php7.4,
// php8.2_plugin.so.
func phpVersion(settings []Setting) string {
	for _, s := range settings {
		if o, ok := Lookup(s.Key); !ok || !strings.HasSuffix(o.Name, "plugins") && !strings.HasSuffix(o.Name, "plugin") {
			continue
		}
		for name := range strings.FieldsFuncSeq(s.Value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			name = strings.TrimSuffix(path.Base(name), "_plugin.so")
			if _, rest, ok := strings.Cut(name, ":"); ok {
				name = rest
			}
			digits, ok := strings.CutPrefix(name, "php")
			digits = strings.ReplaceAll(digits, ".", "")
			if n, err := strconv.Atoi(digits); ok && err == nil && len(digits) == 2 && n > 0 {
				return digits[:1] + "." + digits[1:]
			}
		}
	}
	return ""
}

// modPHP is uWSGI's modifier of PHP.
const modPHP = 14
