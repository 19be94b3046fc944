package route

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/route"
)

// condition compiles the test of a route-if. capture says that the rule's
// action uses what an expression matched.
func (h *Handler) condition(r *vassal.Rule, m *matcher, capture bool) (func(x *run) bool, error) {
	if r.Condition == "never" {
		return func(*run) bool { return false }, nil
	}
	if r.Condition == "incache" {
		return h.inCache(r.Arg)
	}
	left, right := r.Arg, ""
	if route.Conditions()[r.Condition] == route.Two {
		left, right, _ = route.Sides(r.Arg)
	}
	a, err := route.ParseTemplate(left, false)
	if err != nil {
		return nil, err
	}
	if r.Condition == "regexp" {
		return func(x *run) bool { return m.match(x, a.Expand(x), capture) }, nil
	}
	if test, ok := one[r.Condition]; ok {
		return func(x *run) bool { return test(h, a.Expand(x)) }, nil
	}
	b, err := route.ParseTemplate(right, false)
	if err != nil {
		return nil, err
	}
	if test, ok := two[r.Condition]; ok {
		return func(x *run) bool { return test(a.Expand(x), b.Expand(x)) }, nil
	}
	return nil, fmt.Errorf("there is no condition %q", r.Condition)
}

// one are the conditions about one text. Files are looked at as the vassal's
// user, from the application's directory.
var one = map[string]func(h *Handler, a string) bool{
	"empty":  func(_ *Handler, a string) bool { return a == "" },
	"exists": func(h *Handler, a string) bool { _, ok := h.stat(a, os.Stat); return ok },
	"isfile": func(h *Handler, a string) bool { m, ok := h.stat(a, os.Stat); return ok && m.IsRegular() },
	"isdir":  func(h *Handler, a string) bool { m, ok := h.stat(a, os.Stat); return ok && m.IsDir() },
	"islink": func(h *Handler, a string) bool { m, ok := h.stat(a, os.Lstat); return ok && m&fs.ModeSymlink != 0 },
	"isexec": func(h *Handler, a string) bool {
		return a != "" && unix.Access(h.absolute(a), unix.X_OK) == nil
	},
}

func (h *Handler) stat(p string, stat func(string) (fs.FileInfo, error)) (fs.FileMode, bool) {
	if p == "" {
		return 0, false
	}
	fi, err := stat(h.absolute(p))
	if err != nil {
		return 0, false
	}
	return fi.Mode(), true
}

// two are the conditions about two texts.
var two = map[string]func(a, b string) bool{
	"equal":         func(a, b string) bool { return a == b },
	"startswith":    strings.HasPrefix,
	"endswith":      strings.HasSuffix,
	"contains":      strings.Contains,
	"ishigher":      func(a, b string) bool { return number(a) > number(b) },
	"islower":       func(a, b string) bool { return number(a) < number(b) },
	"ishigherequal": func(a, b string) bool { return number(a) >= number(b) },
	"islowerequal":  func(a, b string) bool { return number(a) <= number(b) },
	"ipv4in":        func(a, b string) bool { return within(a, b, false) },
	"ipv6in":        func(a, b string) bool { return within(a, b, true) },
}

func within(addr, net string, v6 bool) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	n, err := route.Network(net, v6)
	return err == nil && n.Contains(a)
}
