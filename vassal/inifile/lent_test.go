package inifile

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

// What an operator's file says stands, wherever a user's file that it includes says
// otherwise; what it leaves open the user's file fills in.
func TestOperatorSays(t *testing.T) {
	operator := func(lines ...string) (out []Setting) { return said(false, vassal.OwnFile, lines...) }
	user := func(lines ...string) (out []Setting) { return said(true, vassal.OwnFile, lines...) }
	says := func(c vassal.Config) string {
		return fmt.Sprint(c.Limits.MemoryMax>>20, " ", c.Limits.PidsMax, " ", c.App.Env)
	}
	for _, c := range []struct {
		name     string
		settings []Setting
		want     string
		left     int // lines left out
	}{
		{"after it", slices.Concat(operator("memory-max=256M", "pids-max=100", "env=A=1"), user("memory-max=0", "limit-nproc=5000", "unenv=A", "env=A=2", "env=B=3")), "256 100 [A=1 B=3]", 4},
		{"by another name", slices.Concat(operator("drain-timeout=5", "threads=2"), user("reload-mercy=600", "worker-reload-mercy=600", "rb-threads=9")), "0 2048 []", 3},
		{"before it", slices.Concat(user("memory-max=512M"), operator("memory-max=256M")), "256 2048 []", 1},
		{"by what PHP and the front are told", slices.Concat(operator("php-set=open_basedir=/srv/a", "http-var=USER=a"), user("php-set=open_basedir=/", "http-var=USER=b", "php-set=memory_limit=1G")), "0 2048 []", 2},
		{"last", slices.Concat(user("memory-max=512M", "limit-nproc=5000", "env=A=2"), said(false, vassal.Enforced, "memory-max=256M", "pids-max=100", "env=A=1")), "256 100 [A=1]", 3},
		{"last, with a user's words", slices.Concat(said(false, vassal.Enforced, "memory-max=256M"), said(true, vassal.Enforced, "memory-max=300M")), "300 2048 []", 0},
		{"left open", slices.Concat(operator("processes=2"), user("memory-max=512M", "pids-max=7", "env=A=2")), "512 7 [A=2]", 0},
		{"[defaults]", slices.Concat(said(false, vassal.Defaults, "memory-max=256M"), user("memory-max=512M")), "512 2048 []", 0},
		{"twice its own", operator("memory-max=256M", "memory-max=512M"), "512 2048 []", 0},
	} {
		cfg, ps := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}, Settings: c.settings}, Policy{})
		left := 0
		for _, p := range ps {
			if p.Code == vassal.CodeNotForTenants && p.Severity == vassal.Warning {
				left++
			} else if p.Code == vassal.CodeNotForTenants {
				t.Error(p)
			}
		}
		if got := says(cfg); got != c.want || left != c.left {
			t.Errorf("%s: %s, %d left out; want %s, %d: %v", c.name, got, left, c.want, c.left, ps)
		}
	}
}

// What the operator says by one option no user says otherwise by another that says
// the same.
func TestSaysTheSame(t *testing.T) {
	sample := func(o *Option) string {
		switch {
		case o.Many:
			return o.Name + "=A=1"
		case o.Type == String || o.Type == Keyval:
			return o.Name + "=/srv/x/app"
		}
		return o.Name + "=7"
	}
	pairs := 0
	for i := range table {
		for j := range table {
			a, b := &table[i], &table[j]
			if a.Says == "" && b.Says == "" || saying(a, Setting{Value: "A=1"}) != saying(b, Setting{Value: "A=2"}) {
				continue
			}
			pairs++
			for _, settings := range [][]Setting{
				slices.Concat(said(false, vassal.OwnFile, sample(a)), said(true, vassal.OwnFile, sample(b))),
				slices.Concat(said(true, vassal.OwnFile, sample(b)), said(false, vassal.OwnFile, sample(a))),
			} {
				cfg, ps := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}, Settings: settings}, Policy{})
				left := slices.ContainsFunc(ps, func(p vassal.Problem) bool {
					return p.Code == vassal.CodeNotForTenants && p.Severity == vassal.Warning && p.Key == b.Name
				})
				if !left || len(cfg.Lent) > 0 {
					t.Errorf("%s of root's, %s of a user's: %v", a.Name, b.Name, ps)
				}
			}
		}
	}
	if pairs < 100 { // of those that name the app alone
		t.Errorf("%d pairs", pairs)
	}
}

// What two options set is one saying in the table, so that a new one is not
// forgotten there.
func TestWhatSaysTheSame(t *testing.T) {
	base := []string{"http-socket=:80", "wsgi-file=/srv/app.py", "static-map=/a=/srv/a", "mules=1"}
	// What is not said by the lines alone: lists, and what follows from several.
	derived := regexp.MustCompile(`^\.(App\.Keys|Listen|Jail\.Named|App\.Workers\.Rlimits|App\.Workers\.Worn\.Youth|App\.Upload\.Space|App\.Static\.SkipExt|App\.Jobs\.Limits.*|App\.(Exec|PHP)\b.*)$`)
	want := leaves(base)
	by := map[string]map[string]string{} // the options that set a member, by what they say
	for i := range table {
		o := &table[i]
		if o.Many || !o.Tenant || o.Type == Language || o.Says == "app" || ownersOnly(o) {
			continue
		}
		for _, text := range []string{"true", "false", "7", "600", "/srv/x", "a:b", "yes", "no"} {
			for member, v := range leaves(append(slices.Clone(base), o.Name+"="+text)) {
				if want[member] != v && !derived.MatchString(member) {
					if by[member] == nil {
						by[member] = map[string]string{}
					}
					by[member][saying(o, Setting{Value: text})] = o.Name
				}
			}
		}
	}
	for member, options := range by {
		if len(options) > 1 {
			t.Errorf("%s is set by %v: they say the same (Option.Says), or it follows from several", member, options)
		}
	}
	if len(by) < 50 {
		t.Errorf("%d members are set at all", len(by))
	}
}

// leaves are the members of the Config of lines, without where they come from.
func leaves(lines []string) map[string]string {
	cfg, _ := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}, Settings: said(false, vassal.OwnFile, lines...)}, Policy{})
	out := map[string]string{}
	var walk func(at string, v reflect.Value)
	walk = func(at string, v reflect.Value) {
		switch _, origin := v.Interface().(vassal.Origin); {
		case origin:
		case v.Kind() == reflect.Pointer && !v.IsNil():
			walk(at, v.Elem())
		case v.Kind() == reflect.Struct:
			for f, member := range v.Fields() {
				if f.IsExported() {
					walk(at+"."+f.Name, member)
				}
			}
		default:
			out[at] = fmt.Sprintf("%+v", v)
		}
	}
	walk("", reflect.ValueOf(cfg))
	return out
}

// An operator's line that names an address by its number means the operator's: a
// user's does not take its place, wherever it is read, and what a user's line names
// is a user's.
func TestLentShared(t *testing.T) {
	operator := func(lines ...string) (out []Setting) { return said(false, vassal.OwnFile, lines...) }
	user := func(lines ...string) (out []Setting) { return said(true, vassal.OwnFile, lines...) }
	for _, c := range []struct {
		name     string
		settings []Setting
		want     string // address, and whose it is
	}{
		{"before it", slices.Concat(user("shared-socket=127.0.0.1:22"), operator("shared-socket=:80", "http-socket==0")), ":80"},
		{"after it", slices.Concat(operator("shared-socket=:80", "http-socket==0"), user("shared-socket=127.0.0.1:22")), ":80"},
		{"alone", slices.Concat(user("shared-socket=127.0.0.1:22"), operator("http-socket==0")), "=0 refused"},
		{"beyond the operator's", slices.Concat(user("shared-socket=127.0.0.1:22"), operator("shared-socket=:80", "http-socket==1")), "=1 refused"},
		{"with a certificate", slices.Concat(user("shared-socket=127.0.0.1:22"), operator("shared-socket=:443", "https-socket==0,/a.pem,/a.key")), ":443"},
		{"a user's by a user's", user("shared-socket=/srv/a.sock", "http-socket==0"), "/srv/a.sock a user's"},
		{"the operator's by a user's", slices.Concat(operator("shared-socket=:80"), user("http-socket==0")), ":80 a user's"},
		{"in [defaults]", slices.Concat(user("shared-socket=127.0.0.1:22"), said(false, vassal.Defaults, "shared-socket=:80", "http-socket==0")), ":80"},
	} {
		cfg, ps := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}, Settings: c.settings}, Policy{})
		l := cfg.Listen[0]
		got := l.Address
		if cfg.ByUser(l.At) {
			got += " a user's"
		}
		if slices.ContainsFunc(ps, func(p vassal.Problem) bool { return p.Code == vassal.CodeBadValue && p.Key == l.Key }) {
			got += " refused"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, got, c.want, ps)
		}
	}
}

// What the operator says last a user's own file does not say otherwise by another
// option.
func TestEnforcedSays(t *testing.T) {
	own := said(true, vassal.OwnFile, "http-socket=:80", "static-map=/a=/srv/a", "socket-timeout=9000", "http-timeout=9000", "harakiri=7")
	cfg, ps := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{UID: 1000}}, Settings: slices.Concat(own, said(false, vassal.Enforced, "http-timeout=10"))}, Policy{})
	if h := cfg.App.HTTP; h.BodyTimeout != 10*time.Second || h.IdleTimeout != 10*time.Second {
		t.Errorf("%v, %v: %v", h.BodyTimeout, h.IdleTimeout, ps)
	}
}

// said is lines of one layer.
func said(tenant bool, layer vassal.Layer, lines ...string) (out []Setting) {
	for i, l := range lines {
		k, v, _ := strings.Cut(l, "=")
		out = append(out, Setting{Key: k, Value: v, Raw: v, Tenant: tenant, Origin: vassal.Origin{File: fmt.Sprint("/", tenant), Line: i + 1, Layer: layer}})
	}
	return out
}

// A weight is bounded as in a user's own file.
func TestLentWeight(t *testing.T) {
	for tenant, want := range map[bool]bool{true: true, false: false} {
		_, ps := Decode(&File{Source: Source{Path: "/etc/vassals/a.ini", Trust: vassal.Trust{Operator: true}}, Settings: said(tenant, vassal.OwnFile, "exec=/srv/server", "http-socket=:8000", "cpu-weight=10000")}, Policy{})
		if ps.Failed() != want {
			t.Errorf("of a user's: %v: %v", tenant, ps)
		}
	}
}
