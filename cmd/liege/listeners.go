package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"liege/emperor/listen"
	"liege/emperor/resolve"
	"liege/vassal"
)

// listeners looks at what the listeners of r need of this host: directories,
// addresses, ports that are free. Nothing is bound. Vassals' own cgroups are in all.
// A path is looked at as the one whose file it is sees it, by host: in a user's own
// directory it leads where the user wishes.
func listeners(ctx context.Context, r *resolve.Result, host resolve.FS, all string) vassal.Problems {
	var ps vassal.Problems
	for _, l := range r.Listen {
		if l.Address[0] == '/' && l.Tenant && r.Config.Trust.Operator {
			continue // a user's line in a file for which host is root's
		}
		if p := listener(ctx, l, host, string(r.Config.Name), all); p != nil {
			if p.File = l.At.File; p.File == "" {
				p.File = r.Config.File
			}
			p.Line, p.Key, p.Step = l.At.Line, l.Key, "listen"
			ps = append(ps, *p)
		}
	}
	return ps
}

func listener(ctx context.Context, l vassal.Listener, host resolve.FS, name, all string) *vassal.Problem {
	warning := func(code, message, hint string) *vassal.Problem {
		return &vassal.Problem{Severity: vassal.Warning, Code: code, Message: message, Hint: hint}
	}
	switch l.Address[0] {
	case '@':
		return nil
	case '/':
		return socketDir(host, l.Address)
	}
	addr, err := netip.ParseAddrPort(l.Address)
	if err != nil {
		host, port, err := net.SplitHostPort(l.Address)
		if err != nil {
			return nil // it was refused
		}
		if addr, err = listen.Lookup(ctx, host, port); err != nil {
			return warning(vassal.CodeListen, err.Error(), "an address of this host, or a line in /etc/hosts")
		}
	}
	if !here(addr.Addr()) {
		return warning(vassal.CodeListen, fmt.Sprintf("%s is no address of this host", addr.Addr()), "ip -brief address shows those that are; 0.0.0.0 or [::] for all")
	}
	if addr.Port() == 0 {
		return nil
	}
	if who, owner := listen.Rival(addr, all); who != "" && owner != name {
		return warning(vassal.CodeListenInUse, l.Address+" is in use now: "+who, "")
	}
	return nil
}

// socketDir says that a socket's directory is missing. Beneath /run the Emperor
// makes it.
func socketDir(host resolve.FS, path string) *vassal.Problem {
	dir := filepath.Dir(path)
	if strings.HasPrefix(dir+"/", "/run/") || strings.HasPrefix(dir+"/", "/var/run/") {
		return nil
	}
	switch fi, err := resolve.Stat(host, dir); {
	case errors.Is(err, fs.ErrNotExist):
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeListen, Message: fmt.Sprintf("%s: there is no directory %s", path, dir), Hint: "mkdir " + dir + ", or a socket in /run/liege/"}
	case err == nil && !fi.IsDir():
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeListen, Message: fmt.Sprintf("%s: %s is not a directory", path, dir)}
	}
	return nil // or nobody that this caller may ask
}

// here reports whether a is an address of this host, as far as can be told.
func here(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() {
		return true
	}
	family := map[bool]string{true: "ipv4", false: "ipv6"}[a.Is4()]
	if any, err := os.ReadFile("/proc/sys/net/" + family + "/ip_nonlocal_bind"); err == nil && strings.TrimSpace(string(any)) == "1" {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(own, func(o net.Addr) bool {
		p, err := netip.ParsePrefix(o.String())
		return err == nil && p.Addr() == a.WithZone("")
	})
}
