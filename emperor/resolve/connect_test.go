package resolve

import (
	"slices"
	"strings"
	"testing"

	"liege/vassal"
)

func TestConnections(t *testing.T) {
	line := func(addr string, tenant bool) vassal.Connection {
		return vassal.Connection{Address: addr, Key: "connect", At: vassal.Origin{Line: 7}, Tenant: tenant}
	}
	const db, sock = "127.0.0.1:5432", "unix:/run/mysqld/mysqld.sock"
	for _, tc := range []struct {
		name    string
		net     string
		lines   []vassal.Connection
		ceiling []string
		caller  bool
		binds   []Bind
		want    []string
		says    string // severity and code of the one problem
	}{
		{name: "operator's", lines: []vassal.Connection{line(db, false), line(sock, false)}, want: []string{db, sock}},
		{name: "tenant's", lines: []vassal.Connection{line(db, true)}, says: "error over-ceiling"},
		{name: "tenant's within", lines: []vassal.Connection{line(db, true), line(sock, true)}, ceiling: []string{"127.0.0.1:5000-6000", "unix:/run/mysqld/**"}, want: []string{db, sock}},
		{name: "tenant's beside", lines: []vassal.Connection{line(db, true)}, ceiling: []string{"127.0.0.1:3306"}, says: "error over-ceiling"},
		{name: "host", net: "host", lines: []vassal.Connection{line(db, false), line(sock, false)}, want: []string{sock}, says: "note done-otherwise"},
		{name: "serve", caller: true, lines: []vassal.Connection{line(db, false)}, says: "note done-otherwise"},
		{name: "control.sock", lines: []vassal.Connection{line("unix:/run/liege/control.sock", false)}, says: "error bad-value"},
		{name: "another vassal's", lines: []vassal.Connection{line("unix:/run/liege/other.sock", false)}, want: []string{"unix:/run/liege/other.sock"}},
		{name: "/etc", lines: []vassal.Connection{line("unix:/etc/x.sock", false)}, says: "error bad-value"},
		{name: "/dev/log", lines: []vassal.Connection{line("unix:/dev/log", false)}, says: "error bad-value"},
		{name: "bound", binds: []Bind{{Target: "/srv/app", Dir: true}}, lines: []vassal.Connection{line("unix:/srv/app/db.sock", false)}, says: "note done-otherwise"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &resolver{res: &Result{Net: "none", Binds: tc.binds}, host: Host{Connect: tc.ceiling}, cfg: vassal.Config{File: "v.ini", Jail: vassal.Jail{Connect: tc.lines}}}
			if tc.net != "" {
				r.res.Net = tc.net
			}
			if tc.caller {
				r.host.Caller = &Caller{}
			}
			r.connections()
			if got := r.res.Reaches(); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
			var says []string
			for _, p := range r.res.Problems {
				says = append(says, string(p.Severity)+" "+p.Code)
				if p.Line != 7 || p.File != "v.ini" {
					t.Errorf("%+v names no line", p)
				}
			}
			if strings.Join(says, ",") != tc.says {
				t.Errorf("%q, want %q", says, tc.says)
			}
			if link := slices.Contains(r.res.Links, Link{"/var/run", "/run"}); link != slices.ContainsFunc(tc.want, func(a string) bool { return strings.HasPrefix(a, "unix:/run/") }) {
				t.Errorf("/var/run: %v", link)
			}
		})
	}
}
