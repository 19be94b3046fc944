package inifile

import (
	"strings"
	"testing"

	"liege/vassal"
)

// A user's file that an operator's file includes gets nothing done with root's
// rights: what the Emperor itself reads, writes or connects to is refused, and
// what is left is remembered as the user's.
func TestLent(t *testing.T) {
	file := func(tenant bool, lines ...string) *File {
		f := &File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}}
		for i, l := range lines {
			k, v, _ := strings.Cut(l, "=")
			f.Settings = append(f.Settings, Setting{Key: k, Value: v, Raw: v, Tenant: tenant, Origin: vassal.Origin{File: "/home/a/a.ini", Line: i + 1}})
		}
		return f
	}
	refused := []string{"logto=/etc/cron.d/x", "pidfile=/etc/x", "resolv-conf=/etc/shadow", "net=host", "https-socket=:1,/a,/b", "chown-socket=root",
		"touch-reload=/srv/x", "tmpfs=/srv/x", "wait-for-socket=127.0.0.1:1", "wait-for-file=/root/x", "req-logger=file:/etc/x", "sni-dir=/etc/ssl", "daemonize=/etc/x"}
	kept := []string{"bind=/srv/x", "http-socket=/srv/x.sock", "chdir=/srv/x", "wsgi-file=/srv/x/app.py", "exec=/srv/x/server", "processes=2"}
	codes := func(f *File) (out []string) {
		_, ps := Decode(f, Policy{})
		for _, p := range ps {
			if p.Code == vassal.CodeNotForTenants {
				out = append(out, p.Key)
			}
		}
		return out
	}
	for _, l := range refused {
		if len(codes(file(true, l))) != 1 {
			t.Errorf("%s is taken from a user's file", l)
		}
		if got := codes(file(false, l)); len(got) > 0 {
			t.Errorf("%s: refused where it is the operator's own", l)
		}
	}
	if got := codes(file(true, kept...)); len(got) > 0 {
		t.Errorf("refused: %v", got)
	}
	cfg, _ := Decode(file(true, kept...), Policy{})
	if len(cfg.Lent) != len(kept) || !cfg.Tenant(cfg.Lent[0]) || cfg.Tenant(vassal.Origin{File: "/etc/vassals/a.ini", Line: 1}) {
		t.Errorf("lent: %v", cfg.Lent)
	}
}
