package inifile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/action"
)

// hookForms are the ways to write a hook, in the order in which those of one
// phase run: uWSGI's, whatever the order of the lines.
var hookForms = []struct{ prefix, action string }{
	{"hook-", ""}, {"mount-", "mount"}, {"umount-", "umount"}, {"exec-", "exec"}, {"call-", "call"},
}

// hook handles the hooks of every phase. callret:setcon becomes the context of
// the last step instead, and nothing of its phase may follow it (KERNEL 8).
func (d *decoder) hook(v value) bool {
	switch v.opt.Name {
	case "hook-timeout":
		d.cfg.HookTime = max(time.Second, v.dur)
		return true
	case "hook-daemons":
		d.hookDaemons(v)
		return true
	}
	for _, f := range hookForms {
		phase, ok := strings.CutPrefix(v.opt.Name, f.prefix)
		if place := vassal.Phase(phase).Place(); !ok || place == vassal.Nowhere || place == vassal.OfEmperor {
			continue
		}
		h := vassal.Hook{Phase: vassal.Phase(phase), Action: f.action, Arg: strings.TrimSpace(v.Value), Key: v.opt.Name, At: v.Origin}
		if h.Phase == vassal.Touched {
			h.File, h.Arg, _ = strings.Cut(h.Arg, " ")
			h.Arg = strings.TrimSpace(h.Arg)
		}
		if f.action == "" && !d.actionOf(v, &h) {
			return true
		}
		d.addHook(v.Setting, h)
		return true
	}
	return false
}

// ofEmperor are the phases whose lines may stand in [emperor]: they are every
// vassal's then.
var ofEmperor = []vassal.Phase{vassal.OnDemand, vassal.OnConfig, vassal.BeforeVassal, vassal.AsEmperor, vassal.BeforeDrop, vassal.AsVassal}

// emperorHooks are the rows of such lines, and of the Emperor's own hooks.
func emperorHooks() []EmperorOption {
	rows := []EmperorOption{
		{"emperor", "hook-emperor-start", Action, true, "", "Action of root's before the first vassal; one that fails ends the Emperor (hooks.md)."},
		{"emperor", "hook-emperor-stop", Action, true, "", "Action of root's when the last vassal is gone."},
	}
	for i := range table {
		o := &table[i]
		for _, p := range ofEmperor {
			if _, phase, ok := strings.Cut(o.Name, "-"); ok && phase == string(p) && o.Group == "Hooks" && o.Class == Works {
				rows = append(rows, EmperorOption{"emperor", o.Name, o.Type, true, "", "For every vassal, before its own lines. " + o.Doc})
			}
		}
	}
	return rows
}

// hookKey handles a hook in emperor.ini.
func (d *emperorDecoder) hookKey(v value) {
	own := map[string]vassal.Phase{"hook-emperor-start": vassal.EmperorStart, "hook-emperor-stop": vassal.EmperorEnd}
	if phase, ok := own[v.opt.Name]; ok {
		h := vassal.Hook{Phase: phase, Arg: strings.TrimSpace(v.Value), Key: v.opt.Name, At: v.Origin}
		if !d.actionOf(v, &h) {
			return
		}
		c, err := action.Parse(h)
		if err == nil && c.Kind == action.Chown && (c.UID < 0 || c.GID < 0) {
			err = errors.New("names are looked up for vassals only: the Emperor's own chown takes numbers")
		}
		if err != nil {
			d.err(vassal.CodeBadHook, v.Setting, err.Error(), "")
			return
		}
		d.c.Hooks = append(d.c.Hooks, h)
		return
	}
	d.hook(v) // for what is wrong with it
	at := v.Origin
	at.Layer = vassal.Defaults
	d.c.Set = append(d.c.Set, Preset{Key: v.opt.Name, Value: v.Value, Origin: at})
}

// actionOf splits action:argument.
func (d *decoder) actionOf(v value, h *vassal.Hook) bool {
	text, private := strings.CutPrefix(h.Arg, "!")
	name, arg, ok := strings.Cut(text, ":")
	if !ok {
		want := v.opt.Name + " = mkdir:/run/shop"
		if h.Phase == vassal.Touched {
			want = v.opt.Name + " = /srv/shop/touched exec:./reload-the-rest"
		}
		d.err(vassal.CodeBadHook, v.Setting, "not written as action:argument", want)
		return false
	}
	h.Action, h.Arg, h.Private = strings.TrimSpace(name), strings.TrimSpace(arg), private
	return true
}

func (d *decoder) hookDaemons(v value) {
	switch w := firstWord(v.Value); w {
	case "kill", "keep":
		d.cfg.HookDaemons = w == "keep"
	default:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither kill nor keep", clip(w)), "hook-daemons = keep")
	}
}

func (d *decoder) addHook(s Setting, h vassal.Hook) {
	call, err := action.Parse(h)
	id := d.cfg.Ident
	switch {
	case err == nil && call.Kind == action.Setcon:
		d.context(s, call.Text, true)
	case h.Phase == vassal.AsUser && id.ContextByHook:
		d.err(vassal.CodeHookAfterSetcon, s, fmt.Sprintf("stands after callret:setcon (line %d), which is the last step before the core starts", id.ContextAt.Line), "move the line before it")
	case errors.Is(err, action.ErrSymbol):
		d.err(vassal.CodeRefused, s, err.Error(), "exec: with a command that does it")
	case err != nil:
		d.err(vassal.CodeBadHook, s, err.Error(), "")
	default:
		d.cfg.Hooks = append(d.cfg.Hooks, h)
	}
}

// finishHooks puts the hooks into the order in which they run. What is put into
// the environment before the application is loaded is like an env line that
// comes last.
func (d *decoder) finishHooks() {
	d.withoutRouter()
	slices.SortStableFunc(d.cfg.Hooks, func(a, b vassal.Hook) int {
		return cmp.Or(a.Phase.Compare(b.Phase), hookForm(a)-hookForm(b))
	})
	for _, h := range d.cfg.Hooks {
		if h.Phase != vassal.PreApp {
			continue
		}
		if c, err := action.Parse(h); err == nil && c.Kind == action.Putenv {
			d.cfg.App.Env, d.cfg.EnvAt = append(d.cfg.App.Env, c.Text), append(d.cfg.EnvAt, h.At)
		}
	}
}

// withoutRouter leaves out the hooks of routers where there is none: http-socket and
// its like are no routers, in uWSGI neither.
func (d *decoder) withoutRouter() {
	for _, router := range []string{"http", "https", "https2"} {
		if _, there := d.seen[router]; there {
			return
		}
	}
	d.cfg.Hooks = slices.DeleteFunc(d.cfg.Hooks, func(h vassal.Hook) bool {
		if h.Phase == vassal.AsGateway {
			d.note(vassal.CodeDoneOtherwise, Setting{Key: h.Key, Origin: h.At}, "is not run: without http or https there is no router, as in uWSGI")
		}
		return h.Phase == vassal.AsGateway
	})
}

func hookForm(h vassal.Hook) int {
	for i, f := range hookForms {
		if strings.HasPrefix(h.Key, f.prefix) {
			return i
		}
	}
	return -1
}
