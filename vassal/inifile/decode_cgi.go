package inifile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"liege/vassal"
)

// Defaults of CGI programs, uWSGI's.
const (
	defaultCGITimeout = 60 * time.Second
	defaultCGIHead    = 64 << 10
	maxCGIHead        = 1 << 20
)

// cgi handles CGI programs.
func (d *decoder) cgi(v value) bool {
	c := &d.cgis
	switch v.opt.Name {
	case "cgi":
		d.cgiMount(v)
	case "cgi-map-helper":
		d.cgiHelper(v)
	case "cgi-allowed-ext":
		c.AllowedExt = append(c.AllowedExt, v.Value)
	case "cgi-index":
		if strings.ContainsAny(v.Value, "/\x00") {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not the name of a file", clip(v.Value)), "cgi-index = index.lua")
			return true
		}
		c.Index = append(c.Index, v.Value)
	case "cgi-safe":
		c.Safe = append(c.Safe, v.Value)
		d.named(v)
	case "cgi-unset":
		c.Unset = append(c.Unset, v.Value)
	case "cgi-from-docroot":
		c.Docroot, d.cgiAt = v.on, v.Origin
	case "cgi-dontresolve":
		c.NoResolve = v.on
	case "cgi-do-not-kill-on-error":
		c.LetRun = v.on
	case "cgi-timeout":
		c.Timeout = d.positive(v, defaultCGITimeout)
	case "cgi-buffer-size":
		c.HeadBytes = max(4<<10, d.atMostOf(v, maxCGIHead))
	default:
		return false
	}
	return true
}

// cgiMount reads [mountpoint=]path.
func (d *decoder) cgiMount(v value) {
	mount, dir, ok := strings.Cut(v.Value, "=")
	if !ok {
		mount, dir = "", v.Value
	}
	if dir == "" || ok && !strings.HasPrefix(mount, "/") {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q names no directory or program", clip(v.Value)), "cgi = /cgi-bin=/usr/lib/cgi-bin")
		return
	}
	d.cgis.Mounts = append(d.cgis.Mounts, vassal.CGIMount{Mount: mount, Path: dir, At: v.Origin})
	d.cgiAt = v.Origin
	b := v
	b.Value = dir
	d.named(b)
}

// cgiHelper reads .ext=command.
func (d *decoder) cgiHelper(v value) {
	ext, command, ok := strings.Cut(v.Value, "=")
	switch {
	case !ok || ext == "" || command == "":
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not written as .ext=command", clip(v.Value)), "cgi-helper = .lua=lua")
	case strings.HasPrefix(command, "sym://"):
		d.err(vassal.CodeRefused, v.Setting, "symbols of libraries are not called", "write a program, and name it here")
	default:
		d.cgis.Helpers = append(d.cgis.Helpers, vassal.CGIHelper{Ext: ext, Command: command, At: v.Origin})
	}
}

// modifiers handles who answers requests by HTTP.
func (d *decoder) modifiers(v value) bool {
	if d.forwardModifier(v) {
		return true
	}
	switch v.opt.Name {
	case "http-modifier1", "http-socket-modifier1", "https-socket-modifier1", "fastcgi-modifier1", "scgi-modifier1":
	default:
		return false
	}
	if d.modifier == nil {
		d.modifier = map[string]value{}
	}
	d.modifier[v.opt.Name] = v
	return true
}

// modCGI is uWSGI's modifier of CGI.
const modCGI = 9

// finishCGI joins what several lines say about CGI programs.
func (d *decoder) finishCGI() {
	c := &d.cgis
	for _, key := range []string{"http-modifier1", "http-socket-modifier1", "https-socket-modifier1", "fastcgi-modifier1", "scgi-modifier1"} {
		v, ok := d.modifier[key]
		switch {
		case !ok || v.n == 0 || v.n == 30 || v.n == int64(d.cfg.App.Workers.Modifier()):
			continue
		case v.n != modCGI && v.n != modPHP:
			d.warn(vassal.CodeNotYet, v.Setting, fmt.Sprintf("modifier %d is not served here: the requests go to the app", clampInt(v.n)), "0 is the app, 5 a Perl app, 7 a Ruby app, 9 CGI, 14 PHP")
			continue
		case v.n == modCGI && len(c.Mounts) == 0 && !c.Docroot:
			d.err(vassal.CodeBadValue, v.Setting, "asks for CGI, and no cgi line says what to run", "cgi = /cgi-bin=/usr/lib/cgi-bin")
		}
		for i := range d.cfg.Listen {
			if l := &d.cfg.Listen[i]; modifierOption(l) == key {
				l.Modifier1 = uint8(v.n)
			}
		}
	}
	if len(c.Mounts) == 0 && !c.Docroot {
		return
	}
	c.Processes, c.Threads, c.Harakiri = d.work.Processes, d.work.Threads, d.work.Harakiri
	if c.Timeout == 0 {
		c.Timeout = defaultCGITimeout
	}
	if c.HeadBytes == 0 {
		c.HeadBytes = defaultCGIHead
	}
	if l := (vassal.ProcessLimits{Rlimits: slices.Clone(d.work.Rlimits), Nice: d.work.Nice, Umask: d.work.Umask}); len(l.Rlimits) > 0 || l.Nice != 0 || l.Umask != nil {
		c.Limits = &l
	}
	d.cfg.App.CGI = c
	if d.cfg.App.Workers == nil && d.cfg.App.Exec == nil && d.cfg.App.PHP == nil {
		return
	}
	for key := range d.seen {
		if strings.Contains(key, "route") {
			return // setmodifier1 may lead there
		}
	}
	for i := range d.cfg.Listen {
		if d.cfg.Listen[i].Modifier1 == modCGI || d.cfg.Listen[i].Protocol == vassal.UWSGI || d.cfg.Listen[i].Protocol == vassal.PUWSGI {
			return
		}
	}
	d.warn(vassal.CodeBadValue, Setting{Key: "cgi", Origin: d.cgiAt}, "no request gets there: all go to the app", "http-modifier1 = 9, or http-socket-modifier1 = 9")
}
