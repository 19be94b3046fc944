package inifile

import (
	"fmt"
	"path"
	"strings"
	"time"

	"liege/vassal"
)

// maxAsync is how many requests an asynchronous worker may serve at once: each
// has a lane, and as many descriptors fit one message (SCM_MAX_FD).
const maxAsync = 250

// asgi reads what names an ASGI app: a file, with a callable or without one,
// or a module.
func (d *decoder) asgi(v value) {
	d.py.Key = "asgi"
	name, callable, ok := strings.Cut(v.Value, ":")
	if !strings.HasSuffix(name, ".py") {
		d.py.Module = v.Value
		return
	}
	if d.py.File = name; ok {
		d.py.Callable = callable
	}
	if dir := path.Dir(name); dir != "." {
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Key: v.Key, At: v.Origin})
	}
}

// python handles what concerns Python applications alone.
func (d *decoder) python(v value) bool {
	switch v.opt.Name {
	case "py-autoreload":
		d.py.Watch = time.Duration(max(0, min(v.n, 1<<20))) * time.Second
	case "py-auto-reload-ignore":
		d.py.Unwatched = append(d.py.Unwatched, v.Value)
	case "gevent":
		d.py.Gevent, d.work.Async = v.n > 0, d.atMostOf(v, maxAsync)
	case "gevent-monkey-patch", "gevent-early-monkey-patch":
		d.py.Patch = d.py.Patch || v.on
	case "eval", "paste", "ini-paste", "pecan":
		d.form(v)
	case "async", "asyncio":
		d.work.Async = d.atLeast(v, maxAsync)
	default:
		return d.tuning(v)
	}
	return true
}

// tuning handles what an app's interpreter is made to do.
func (d *decoder) tuning(v value) bool {
	t := &d.py.Tuning
	switch v.opt.Name {
	case "import":
		t.Import = append(t.Import, v.Value)
	case "shared-import":
		t.SharedImport = append(t.SharedImport, v.Value)
	case "pymodule-alias":
		t.Alias = append(t.Alias, v.Value)
	case "post-pymodule-alias":
		t.PostAlias = append(t.PostAlias, v.Value)
	case "optimize":
		t.Optimize = int(min(v.n, 2))
	case "no-site":
		t.NoSite = v.on
	case "py-executable":
		t.Executable = v.Value
	case "paste-logger":
		t.PasteLogger = v.on
	case "wsgi-disable-file-wrapper":
		t.NoFileWrapper = v.on
	case "start_response-nodelay":
		t.NoDelay = v.on
	case "catch-exceptions":
		t.Show = v.on
	case "reload-on-exception":
		if v.on {
			t.ReloadOn = append(t.ReloadOn, "any")
		}
	case "reload-on-exception-type", "reload-on-exception-value", "reload-on-exception-repr":
		t.ReloadOn = append(t.ReloadOn, strings.TrimPrefix(v.opt.Name, "reload-on-exception-")+" "+v.Value)
	default:
		return false
	}
	return true
}

// form reads an app that is neither a file nor a module.
func (d *decoder) form(v value) {
	d.names(v, "python")
	if d.py.File+d.py.Module != "" && v.opt.Name != d.pyOption {
		d.warn(vassal.CodeTwoApps, v.Setting, fmt.Sprintf("line %d names another app; this one counts", d.py.At.Line), "keep one of them")
	}
	d.py.File, d.py.Module, d.py.At, d.py.Key, d.py.ASGI, d.pyOption = "", v.Value, v.Origin, v.opt.Name, false, v.opt.Name
	file := v.Value
	switch v.opt.Name {
	case "eval":
		d.py.Form = vassal.FormEval
		return
	case "pecan":
		d.py.Form = vassal.FormPecan
	default:
		d.py.Form = vassal.FormPaste
		if v.Key == "ini-paste-logged" {
			d.py.Tuning.PasteLogger = true
		}
		if scheme, rest, ok := strings.Cut(v.Value, ":"); !ok {
			d.py.Module = "config:" + v.Value
		} else if file = rest; scheme != "config" {
			return // egg: and the like name no file
		}
		file, _, _ = strings.Cut(file, "#") // the name of the app in it
	}
	if dir := path.Dir(file); dir != "." {
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Key: v.Key, At: v.Origin})
	}
}
