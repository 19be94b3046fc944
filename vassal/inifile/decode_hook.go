package inifile

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// hook handles the phases that exist. Every line becomes a Hook in the order
// of the file; callret:setcon becomes the context of the last step instead,
// and nothing may follow it (KERNEL 8).
func (d *decoder) hook(v value) bool {
	h := vassal.Hook{Arg: strings.TrimSpace(v.Value), At: v.Origin}
	switch v.opt.Name {
	case "hook-as-root", "hook-as-user":
		text, private := strings.CutPrefix(h.Arg, "!")
		action, arg, ok := strings.Cut(text, ":")
		if !ok {
			d.err(vassal.CodeBadHook, v.Setting, "not written as action:argument", v.opt.Name+" = mkdir:/run/shop")
			return true
		}
		h.Action, h.Arg, h.Private = action, strings.TrimSpace(arg), private
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
	least, known := arity(h.Action)
	switch {
	case h.Action == "call" || h.Action == "callret" || h.Action == "callint" || h.Action == "callintret":
		d.call(s, h)
	case later(h.Action):
		d.err(vassal.CodeNotYet, s, fmt.Sprintf("the action %s is not there yet", h.Action), "exec: with a command that does it")
	case !known:
		d.err(vassal.CodeBadHook, s, fmt.Sprintf("unknown action %q", clip(h.Action)), "exec write mkdir chown chmod mount umount hostname cd putenv unlink print")
	case len(strings.Fields(h.Arg)) < least:
		d.err(vassal.CodeBadHook, s, fmt.Sprintf("%s needs %d arguments", h.Action, least), usage(h.Action))
	default:
		if h.Action == "chdir" {
			h.Action = "cd"
		}
		if h.Action == "log" {
			h.Action = "print"
		}
		d.cfg.Hooks = append(d.cfg.Hooks, h)
	}
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

// arity is how many arguments an action needs at least.
func arity(action string) (int, bool) {
	switch action {
	case "exec", "mkdir", "umount", "hostname", "cd", "chdir", "putenv", "unlink", "print", "log", "write":
		return 1, true
	case "chmod":
		return 2, true
	case "chown", "mount":
		return 3, true
	}
	return 0, false
}

func usage(action string) string {
	switch action {
	case "chmod":
		return "chmod:FILE MODE"
	case "chown":
		return "chown:FILE USER GROUP"
	case "mount":
		return "mount:FSTYPE SOURCE TARGET [FLAGS]"
	case "write":
		return "write:FILE TEXT"
	case "putenv":
		return "putenv:NAME=VALUE"
	}
	return action + ":ARGUMENT"
}

// later reports whether uWSGI knows an action that this release does not.
func later(action string) bool {
	switch action {
	case "sticky", "chown2", "safeexec", "create", "creat", "writen", "append", "appendn", "writefifo", "spinningfifo",
		"alarm", "rpc", "retryrpc", "wait_for_fs", "wait_for_file", "wait_for_dir", "wait_for_socket", "unix_signal", "exit":
		return true
	}
	return false
}
