package inifile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/route"
)

// front handles what else the HTTP front and its listeners do.
func (d *decoder) front(v value) bool {
	o := &d.cfg.App.Front
	switch v.opt.Name {
	case "enable-proxy-protocol":
		d.cfg.App.HTTP.ProxyProtocol = v.on
	case "http-var":
		d.httpVar(v)
	case "http-server-name-as-http-host":
		o.ServerName = v.on
	case "http-auto-gzip":
		o.AutoGzip = v.on
	case "error-page-403", "error-page-404", "error-page-500":
		status, _ := strconv.Atoi(strings.TrimPrefix(v.opt.Name, "error-page-"))
		if o.Pages == nil {
			o.Pages = map[int][]vassal.Page{}
		}
		o.Pages[status] = append(o.Pages[status], vassal.Page{File: v.Value, At: v.Origin, Key: v.Key})
		d.named(v)
	case "shared-socket":
		d.shared = append(d.shared, v)
	case "socket-sndbuf":
		d.sockets.SendBuffer = d.atMostOf(v, maxSocketBuffer)
	case "socket-rcvbuf":
		d.sockets.ReceiveBuffer = d.atMostOf(v, maxSocketBuffer)
	case "freebind":
		d.sockets.Freebind = v.on
	case "post-buffering":
		u := &d.cfg.App.Upload
		u.Store, u.Stream = v.n > 0, v.n <= 0
	case "post-buffering-space":
		d.cfg.App.Upload.Space = v.n
	case "http-stats":
		d.listen(v, vassal.Stats)
	default:
		return d.forward(v)
	}
	return true
}

// defaultUploadSpace is what stored bodies may take on disk, all together. The
// private /tmp is memory, and memory-max counts it.
const defaultUploadSpace = 256 << 20

// maxSocketBuffer bounds socket-sndbuf and socket-rcvbuf; the kernel's own
// bound (net.core.wmem_max) is mostly lower.
const maxSocketBuffer = 64 << 20

// httpVar refuses what the front itself says about a request.
func (d *decoder) httpVar(v value) {
	name, _, _ := strings.Cut(v.Value, "=")
	switch {
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not the name of a variable", clip(name)), "http-var = NAME=value")
	case name == "CONTENT_LENGTH" || name == "REQUEST_METHOD" || name == "SERVER_PROTOCOL" || strings.HasPrefix(name, "UWSGI_"):
		d.err(vassal.CodeBadValue, v.Setting, name+" is the server's own", "another name")
	default:
		d.cfg.App.Front.Vars = append(d.cfg.App.Front.Vars, v.Value)
	}
}

// forward handles where the requests of http listeners are sent on to.
func (d *decoder) forward(v value) bool {
	f := &d.ahead
	switch v.opt.Name {
	case "http-to", "http-fallback":
		addr := strings.TrimSpace(v.Value)
		if err := route.Address(addr); err != nil {
			d.err(vassal.CodeBadValue, v.Setting, err.Error(), v.opt.Name+" = 127.0.0.1:3031, or the path of a socket")
			return true
		}
		if f.At.Line == 0 {
			f.At = v.Origin
		}
		if v.opt.Name == "http-to" {
			f.To = append(f.To, addr)
		} else {
			f.Fallback = append(f.Fallback, addr)
		}
		d.reachedFrom(v.Setting, "", addr)
	case "http-backend-http":
		f.HTTP = v.on
	case "http-gracetime":
		f.Grace = time.Duration(min(v.n, 1<<30)) * time.Second
	case "http-connect-timeout":
		f.Connect = time.Duration(min(v.n, 1<<30)) * time.Second
	default:
		return false
	}
	return true
}

// forwards reports whether the file sends requests on, whatever its order.
func (d *decoder) forwards() bool {
	return slices.ContainsFunc(d.f.Settings, func(s Setting) bool { return s.Key == "http-to" || s.Key == "http-fallback" })
}

// forwardModifier takes the modifiers for the servers that requests are sent
// on to: http-modifier1 then says nothing about this vassal's own handlers.
func (d *decoder) forwardModifier(v value) bool {
	i := slices.Index([]string{"http-modifier1", "http-modifier2"}, v.opt.Name)
	if i < 0 || !d.forwards() {
		return false
	}
	d.ahead.Modifier[i] = uint8(d.within(v, 0, 255, ""))
	return true
}

// finishFront gives sockets what one line says for all.
func (d *decoder) finishFront() {
	if len(d.ahead.To)+len(d.ahead.Fallback) > 0 {
		f := d.ahead
		d.cfg.App.Forward = &f
	}
	if u := &d.cfg.App.Upload; u.Space == 0 && (u.Store || d.cfg.App.PHP != nil) {
		u.Space = defaultUploadSpace
	}
	for i := range d.cfg.Listen {
		d.cfg.Listen[i].Sockets = d.sockets
	}
	if len(d.cfg.Listen) <= maxListeners { // else that is said
		d.shareSockets()
	}
}

// shareSockets puts the shared sockets in the place of their numbers. A line of
// the operator's counts the operator's own: one that a user's file brings, read
// before them, would shift their numbers, and give the address to a line that is
// believed as the operator's. A user's line counts all of them, and is bounded as
// a user's wherever its address was written.
func (d *decoder) shareSockets() {
	var all, operators []int
	for i, v := range d.shared {
		all = append(all, i)
		if !d.tenant(v.Setting) {
			operators = append(operators, i)
		}
	}
	used := map[int]bool{}
	for i := range d.cfg.Listen {
		l := &d.cfg.Listen[i]
		text, ok := strings.CutPrefix(l.Address, "=")
		if !ok {
			continue
		}
		counted := operators
		if d.cfg.ByUser(l.At) {
			counted = all
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n >= len(counted) {
			from := "0"
			if len(counted) < len(d.shared) {
				from += ", without those that users' files bring"
			}
			d.err(vassal.CodeBadValue, Setting{Key: l.Key, Origin: l.At}, fmt.Sprintf("there is no shared-socket line number %q; they count from %s", clip(text), from), "shared-socket = :80")
			continue
		}
		used[counted[n]] = true
		l.Address = d.shared[counted[n]].Value
	}
	for i, v := range d.shared {
		if used[i] {
			continue
		}
		n := slices.Index(operators, i)
		if n < 0 {
			n = i
		}
		d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("no line refers to it: nothing is served on %s", clip(v.Value)), fmt.Sprintf("http-socket = =%d", n))
	}
}
