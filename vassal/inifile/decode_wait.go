package inifile

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// usualWait is how long uWSGI waits for each thing, in seconds.
const usualWait = 60

// waiting is what lines make the start wait for.
type waiting struct {
	hooks                 []vassal.Hook // without phase and time
	files, links, sockets int           // seconds; 0: usualWait
}

// waitFor handles the wait-for options. Each is a hook of one of the actions that
// wait; as under uWSGI a file and a directory are anything that is there.
func (d *decoder) waitFor(v value) bool {
	w, text := &d.waits, strings.TrimSpace(v.Value)
	add := func(action, arg string) {
		w.hooks = append(w.hooks, vassal.Hook{Action: action, Arg: arg, Key: v.opt.Name, At: v.Origin})
	}
	switch v.opt.Name {
	case "wait-for-fs", "wait-for-file", "wait-for-dir":
		add("wait_for_fs", text)
	case "wait-for-mountpoint":
		add("wait_for_mountpoint", text)
	case "wait-for-socket":
		add("wait_for_socket", text)
	case "wait-for-interface":
		const most = 15 // IFNAMSIZ
		if text == "" || len(text) > most || strings.ContainsAny(text, "/ ") || strings.Trim(text, ".") == "" {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not the name of an interface", clip(text)), v.Key+" = eth0")
			return true
		}
		add("wait_for_fs", "/sys/class/net/"+text)
	case "wait-for-fs-timeout":
		w.files = clampInt(v.n)
	case "wait-for-interface-timeout":
		w.links = clampInt(v.n)
	case "wait-for-socket-timeout":
		w.sockets = clampInt(v.n)
	default:
		return false
	}
	return true
}

// finishWaits gives those hooks the moment at which their thing can come, which
// is before all other hooks of it: on the host, where the file's paths are the
// host's; in the root that the file names; and in the vassal's own namespaces for
// an interface. Who waits for a user's file has that user's rights, as who
// connects to a socket always.
func (d *decoder) finishWaits() {
	w := &d.waits
	if len(w.hooks) == 0 {
		return
	}
	first := make([]vassal.Hook, 0, len(w.hooks))
	for _, h := range w.hooks {
		h.Phase, h.Time = vassal.BeforeVassal, w.files
		link := h.Key == "wait-for-interface"
		if link {
			h.Time = w.links
		}
		if d.cfg.Jail.Root.Inside || link {
			h.Phase = vassal.AsRoot
		}
		if h.Action == "wait_for_socket" {
			h.Time = w.sockets
		}
		if h.Action == "wait_for_socket" || !d.cfg.Trust.Operator {
			h.Phase = vassal.PreApp
		}
		if h.Time <= 0 {
			h.Time = usualWait
		}
		first = append(first, h)
	}
	all := d.cfg.Hooks
	d.cfg.Hooks = nil
	for _, h := range first {
		d.addHook(Setting{Key: h.Key, Value: h.Arg, Origin: h.At}, h)
	}
	d.cfg.Hooks = append(d.cfg.Hooks, all...)
}
