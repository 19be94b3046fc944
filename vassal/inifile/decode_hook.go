package inifile

import (
	"fmt"
	"strings"

	"liege/vassal"
	"liege/vassal/action"
)

// hook handles the phases that exist. Every line becomes a Hook in the order
// of the file; callret:setcon becomes the context of the last step instead,
// and nothing may follow it (KERNEL 8).
func (d *decoder) hook(v value) bool {
	h := vassal.Hook{Arg: strings.TrimSpace(v.Value), At: v.Origin}
	switch v.opt.Name {
	case "hook-as-root", "hook-as-user":
		text, private := strings.CutPrefix(h.Arg, "!")
		name, arg, ok := strings.Cut(text, ":")
		if !ok {
			d.err(vassal.CodeBadHook, v.Setting, "not written as action:argument", v.opt.Name+" = mkdir:/run/shop")
			return true
		}
		h.Action, h.Arg, h.Private = strings.TrimSpace(name), strings.TrimSpace(arg), private
	case "exec-as-root", "exec-as-user":
		h.Action = "exec"
	case "mount-as-root":
		h.Action = "mount"
	case "umount-as-root":
		h.Action = "umount"
	default:
		return false
	}
	h.Phase = vassal.AsRoot
	if strings.HasSuffix(v.opt.Name, "as-user") {
		h.Phase = vassal.AsUser
	}
	d.addHook(v.Setting, h)
	return true
}

func (d *decoder) addHook(s Setting, h vassal.Hook) {
	if id := d.cfg.Ident; h.Phase == vassal.AsUser && id.ContextByHook && h.Action != "callret" {
		d.err(vassal.CodeHookAfterSetcon, s, fmt.Sprintf("stands after callret:setcon (line %d), which is the last step before the core starts", id.ContextAt.Line), "move the line before it")
		return
	}
	if h.Action == "call" || h.Action == "callret" || h.Action == "callint" || h.Action == "callintret" {
		d.call(s, h)
		return
	}
	switch h.Action {
	case "chdir":
		h.Action = string(action.Cd)
	case "log":
		h.Action = string(action.Print)
	}
	if err := action.Check(h); err != nil {
		d.err(vassal.CodeBadHook, s, err.Error(), "")
		return
	}
	d.cfg.Hooks = append(d.cfg.Hooks, h)
}

// call accepts the one symbol that there is a meaning for.
func (d *decoder) call(s Setting, h vassal.Hook) {
	symbol, arg, _ := strings.Cut(h.Arg, " ")
	switch {
	case symbol != "setcon":
		d.err(vassal.CodeRefused, s, fmt.Sprintf("%s:%s: symbols of libraries are not called", h.Action, clip(symbol)), "exec: with a command that does it")
	case h.Phase != vassal.AsUser:
		d.err(vassal.CodeBadHook, s, "setcon comes after the privileges are dropped", "hook-as-user = callret:setcon "+strings.TrimSpace(arg))
	default:
		d.context(s, strings.TrimSpace(arg), true)
	}
}
