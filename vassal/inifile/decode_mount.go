package inifile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// mount handles several applications in one vassal.
func (d *decoder) mount(v value) bool {
	m := &d.mounts
	switch v.opt.Name {
	case "mount", "worker-mount":
		d.mounted(v)
	case "manage-script-name":
		m.Manage = v.on
	case "ignore-script-name":
		m.Ignore = v.on
	case "no-default-app":
		d.noMain = v.on
	case "single-interpreter":
		m.OneForAll = v.on
	default:
		return false
	}
	return true
}

// finishVhosts says what becomes of vhost. In uWSGI a host name that has no app
// of its own gets the one that the file names, so that vhost changes nothing for
// most files that have it; without such an app, or with no-default-app, requests
// choose what is loaded, and here nothing would answer.
func (d *decoder) finishVhosts() {
	named := d.hasApp() && d.cfg.App.Mounting == nil && !d.noMain
	for _, p := range d.vhosts {
		if named {
			d.note(vassal.CodeDoneOtherwise, p.s, "the app that the file names answers for every host name, as in uWSGI; "+p.opt.Effect)
		} else {
			d.err(vassal.CodeRefused, p.s, p.opt.Effect, "remove the line"+d.withoutMain())
		}
	}
}

// withoutMain is what more a file with vhost has to lose.
func (d *decoder) withoutMain() string {
	if !d.noMain {
		return ""
	}
	return " and no-default-app"
}

// maxMounts bounds the applications of one vassal: each has processes.
const maxMounts = 64

// mountLanguages are those of mounted files, by what their names end in.
var mountLanguages = map[string]string{".py": "", ".wsgi": "", ".ru": "ruby", ".psgi": "perl", ".pl": "perl"}

// mounted reads POINT=APP: a file that ends in .py or .wsgi, a module, or
// module:callable (uWSGI takes a module only with a callable); or a file of Ruby
// or Perl.
func (d *decoder) mounted(v value) {
	const example = "mount = /shop=shop.py, or /shop=package.module:app"
	point, app, ok := strings.Cut(v.Value, "=")
	point, app = strings.TrimSpace(point), strings.TrimSpace(app)
	switch {
	case !ok || app == "":
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q names no app", clip(v.Value)), example)
		return
	case point != "" && point[0] != '/':
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("the mount point %q does not begin with a slash", clip(point)), example)
		return
	case len(d.mounts.Mounts) == maxMounts:
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d mount points", maxMounts), "")
		return
	}
	m := vassal.Mount{Point: strings.TrimRight(point, "/"), At: v.Origin}
	for i := range d.mounts.Mounts {
		if o := &d.mounts.Mounts[i]; o.Point == m.Point {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("line %d has mounted an app at %q already", o.At.Line, cmp.Or(m.Point, "/")), "")
			return
		}
	}
	ext := path.Ext(app)
	language, file := mountLanguages[ext]
	switch {
	case file:
		m.File, m.Language = app, language
		if dir := path.Dir(app); dir != "." {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Key: v.Key, At: v.Origin})
		}
	case ext == ".ini" || ext == ".lua" || ext == ".php":
		d.err(vassal.CodeNotYet, v.Setting, fmt.Sprintf("not yet: an app of a file %s is not mounted", ext), example)
		return
	default:
		m.Module, m.Callable, _ = strings.Cut(app, ":")
		if m.Module == "" || strings.ContainsAny(m.Module, "/ ") {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither a file nor a module", clip(app)), example)
			return
		}
	}
	if ms := d.mounts.Mounts; len(ms) > 0 && ms[0].Language != m.Language {
		d.err(vassal.CodeTwoApps, v.Setting, fmt.Sprintf("line %d mounts an app of another language", ms[0].At.Line), "a vassal of its own for each language")
		return
	}
	d.mounts.Mounts = append(d.mounts.Mounts, m)
}

// ownApp is the app that another line than a mount names, of the language of
// those that are mounted; nil: none does.
func (d *decoder) ownApp() *vassal.Mount {
	own := vassal.Mount{Language: d.mounts.Mounts[0].Language}
	switch own.Language {
	case "ruby":
		own.File, own.At = d.ruby.File, d.ruby.At
	case "perl":
		own.File, own.At = d.perl.File, d.perl.At
	default:
		own.File, own.Module, own.Callable, own.At = d.py.File, d.py.Module, cmp.Or(d.py.Callable, "application"), d.py.At
	}
	if own.File == "" && own.Module == "" {
		return nil
	}
	return &own
}

// adopt makes a mounted app the vassal's own.
func (d *decoder) adopt(m *vassal.Mount) {
	switch m.Language {
	case "ruby":
		d.ruby.File, d.ruby.At, d.ruby.Key = m.File, m.At, "mount"
	case "perl":
		d.perl.File, d.perl.At, d.perl.Key = m.File, m.At, "mount"
	default:
		d.py.File, d.py.Module, d.py.Callable, d.py.At, d.py.Key = m.File, m.Module, m.Callable, m.At, "mount"
		return
	}
	d.app = appLine{m.Language, Setting{Key: "mount", Origin: m.At}}
}

// finishMounts makes the first mounted app the vassal's own, unless another
// line names one: that is loaded first then, and so is the default.
func (d *decoder) finishMounts() {
	m := &d.mounts
	if len(m.Mounts) == 0 {
		if m.Ignore {
			d.cfg.App.Mounting = m
		}
		return
	}
	first := m.Mounts[0]
	if other := d.app; other.language != "" && other.language != cmp.Or(first.Language, "python") {
		d.err(vassal.CodeTwoApps, Setting{Key: "mount", Origin: first.At}, fmt.Sprintf("line %d names an app of another language", other.at.Origin.Line), "a vassal of its own for each language")
		return
	}
	if first.Language == "" {
		callable := cmp.Or(d.py.Callable, "application")
		for i := range m.Mounts {
			m.Mounts[i].Callable = cmp.Or(m.Mounts[i].Callable, callable)
		}
		first = m.Mounts[0]
	} else if m.OneForAll {
		d.note(vassal.CodeDoneOtherwise, Setting{Key: "single-interpreter", Origin: d.seen["single-interpreter"]}, "each app of Ruby or Perl has processes of its own")
		m.OneForAll = false
	}
	root := slices.IndexFunc(m.Mounts, func(x vassal.Mount) bool { return x.Point == "" })
	own := d.ownApp()
	switch {
	case own == nil:
		d.adopt(&first)
	case root >= 0:
		at := m.Mounts[root].At
		d.err(vassal.CodeTwoApps, Setting{Key: "mount", Origin: at}, fmt.Sprintf("line %d names the app of / already", own.At.Line), "keep one of them")
	case d.py.Form != vassal.FormModule && m.OneForAll:
		d.err(vassal.CodeBadValue, Setting{Key: d.py.Key, Origin: d.py.At}, "with single-interpreter every app is a file or a module", "remove single-interpreter")
	default:
		root = 0
		m.Mounts = append([]vassal.Mount{*own}, m.Mounts...)
	}
	switch {
	case root >= 0:
		m.Default = root
	case d.noMain:
		m.Default = -1
	}
	d.cfg.App.Mounting = m
}
