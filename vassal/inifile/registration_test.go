package inifile

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

const registered = "[plugin]\nfamily = rack\ninterpreter = /opt/old/bin/ruby\nprefix = /opt/old\nversion = 1.9.3\n"

func TestRegistrationFiles(t *testing.T) {
	dirs := []string{"/a", "/b"}
	for name, want := range map[string]string{
		"rack": "", "python3": "", "cgi": "", "/usr/lib/uwsgi/plugins/python3_plugin.so": "", "": "", "/": "", ".": "",
		"rack_215": "/a/rack_215_plugin.ini /b/rack_215_plugin.ini", "0:rack_215": "/a/rack_215_plugin.ini /b/rack_215_plugin.ini",
		"python27": "/a/python27_plugin.ini /b/python27_plugin.ini", "mine.so": "/a/mine_plugin.ini /b/mine_plugin.ini",
		"/foobar/rack_215_plugin.so": "/foobar/rack_215_plugin.ini", "7:/foobar/rack_215": "/foobar/rack_215_plugin.ini",
		"/foobar/rack_plugin.ini": "/foobar/rack_plugin.ini", "../x/rack_215": "../x/rack_215_plugin.ini",
	} {
		if got := strings.Join(RegistrationFiles(name, dirs), " "); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestParseRegistration(t *testing.T) {
	g, err := ParseRegistration([]byte(registered))
	if err != nil || g.Interpreter != "/opt/old/bin/ruby" || g.Version != "1.9.3" {
		t.Errorf("%+v %v", g, err)
	}
	again, err := ParseRegistration(g.Text())
	if diff := cmp.Diff(g, again); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"": "no section", "[plugin]\n": "no interpreter", "[plugin]\nfamily = rack\ninterpreter = ruby\n": "absolute",
		"[plugin]\nfamily = tcl\ninterpreter = /a\n": "none of", "[plugin]\n= x\n": "",
	} {
		if _, err := ParseRegistration([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseRegistration(f *testing.F) {
	f.Add([]byte(registered))
	f.Add([]byte("[plugin]\nfamily = psgi\ninterpreter = //a/../b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := ParseRegistration(text)
		if err != nil {
			return
		}
		again, err := ParseRegistration(g.Text())
		if err != nil || again != g {
			t.Errorf("%v: %+v is read back as %+v", err, g, again)
		}
	})
}

// owned is a host whose files belong to somebody.
type owned struct {
	*mapHost
	operator map[string]bool
	asked    []string
	err      error // of every file
}

func (h *owned) ReadFile(name string) (HostFile, error) {
	h.asked = append(h.asked, name)
	if h.err != nil {
		return HostFile{}, h.err
	}
	f, err := h.mapHost.ReadFile(name)
	f.Operator = h.operator[name]
	return f, err
}

// TestRegistrationTrust: whose registration counts for whom, and that only
// names that may have one are looked for.
func TestRegistrationTrust(t *testing.T) {
	const system = RegistrationDir + "/rack_215_plugin.ini"
	text := "[uwsgi]\nuid = alice\nplugins = rack_215 http\nrack = /srv/shop/config.ru\nhttp-socket = :80\n"
	for _, c := range []struct {
		name   string
		tenant bool
		host   map[string]string // of the vassal's file
		system map[string]string // of the operator
		owner  string            // the file that is the operator's
		want   string
		err    string
	}{
		{"beside it", false, map[string]string{"/etc/vassals/rack_215_plugin.ini": registered}, nil, "/etc/vassals/rack_215_plugin.ini", "/opt/old/bin/ruby", ""},
		{"of a stranger", false, map[string]string{"/etc/vassals/rack_215_plugin.ini": registered}, nil, "", "", "does not belong to root"},
		{"of the tenant", true, map[string]string{"/etc/vassals/rack_215_plugin.ini": registered}, nil, "", "/opt/old/bin/ruby", ""},
		{"system's", true, nil, map[string]string{system: registered}, system, "/opt/old/bin/ruby", ""},
		{"none", false, nil, nil, "", "", "is not registered"},
		{"broken", false, map[string]string{"/etc/vassals/rack_215_plugin.ini": "[plugin]\n"}, nil, "/etc/vassals/rack_215_plugin.ini", "", "names no interpreter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := func(files map[string]string) *owned {
				h := &owned{mapHost: &mapHost{files: fstest.MapFS{}}, operator: map[string]bool{c.owner: true}}
				for name, text := range files {
					h.files[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text)}
				}
				return h
			}
			own, operator := host(c.host), host(c.system)
			trust := vassal.Trust{Operator: !c.tenant, UID: 1000, GID: 1000}
			f, ps := Read(Source{Path: "/etc/vassals/shop.ini", Text: []byte(text), Trust: trust}, own, ReadOptions{Operator: operator})
			cfg, more := Decode(f, Policy{})
			got := ""
			if w := cfg.App.Workers; w != nil {
				got = w.Interpreter
			}
			if got != c.want {
				t.Errorf("interpreter %q, want %q; %v %v", got, c.want, ps, more)
			}
			all := ""
			for _, p := range append(ps, more...) {
				all += p.Error() + "\n"
			}
			if c.err != "" && !strings.Contains(all, c.err) || c.err == "" && strings.Contains(all, "rack") {
				t.Errorf("problems, want %q:\n%s", c.err, all)
			}
			if slices.ContainsFunc(own.asked, func(n string) bool { return strings.Contains(n, "http") }) {
				t.Errorf("asked for %v", own.asked)
			}
			if got != "" && !slices.ContainsFunc(f.Reads, func(q Query) bool { return strings.HasSuffix(q.Name, "rack_215_plugin.ini") }) {
				t.Errorf("the registration is not among what was read: %v", f.Reads)
			}
		})
	}
	// A directory that cannot be read is none of the file's business, but a file
	// that it names is.
	for name, want := range map[string]bool{"python311": false, "/secret/rack_ruby31_plugin.so": false, "/secret/rack_215_plugin.ini": true} {
		host := &owned{mapHost: &mapHost{files: fstest.MapFS{}}, err: fs.ErrPermission}
		_, ps := Read(Source{Path: "/etc/vassals/a.ini", Text: []byte("[uwsgi]\nplugins-dir = /secret\nplugin = " + name + "\n"), Trust: vassal.Trust{UID: 1000}}, host, ReadOptions{})
		if ps.Failed() != want {
			t.Errorf("%s: %v", name, ps)
		}
	}
	// One that lies among the vassals says where it belongs.
	_, ps := Read(Source{Path: "/etc/vassals/rack_215_plugin.ini", Text: []byte(registered), Trust: vassal.Trust{Operator: true}}, &mapHost{files: fstest.MapFS{}}, ReadOptions{})
	if !ps.Failed() || !strings.Contains(ps[0].Hint, RegistrationDir) {
		t.Errorf("a registration as a vassal: %v", ps)
	}
	a, _ := Read(Source{Path: "/etc/vassals/a.ini", Text: []byte(text)}, &owned{mapHost: &mapHost{files: fstest.MapFS{"etc/vassals/rack_215_plugin.ini": &fstest.MapFile{Data: []byte(registered)}}}}, ReadOptions{})
	b, _ := Read(Source{Path: "/etc/vassals/a.ini", Text: []byte(text)}, &owned{mapHost: &mapHost{files: fstest.MapFS{"etc/vassals/rack_215_plugin.ini": &fstest.MapFile{Data: []byte(registered + "abi = 1\n")}}}}, ReadOptions{})
	if bytes.Equal(a.Digest[:], b.Digest[:]) {
		t.Error("the registration is not part of the digest")
	}
}

// What the operator's plugin line reads with root's rights is where no user says,
// and what is in a file is told to nobody who may not read it.
func TestRegistrationOfUsers(t *testing.T) {
	const priv, secret = "/srv/x/priv/rack_215_plugin.ini", "s3cret"
	broken := "[plugin]\nfamily = " + secret + "\ninterpreter = /opt/r\n"
	for _, c := range []struct {
		name     string
		own      string // the vassal's file
		operator bool   // whose it is
		defaults string
		file     string // that there is, of a user
		owner    string // of the files: the one that is the operator's
		want     string // in the problems
		asked    bool   // the operator's host about file
	}{
		{"a user's directory", "plugins-dir = /srv/x/priv", false, "plugin = rack_215", priv, "", "", false},
		{"beside a user's file", "env = A=1", false, "plugin = rack_215", "/etc/vassals/rack_215_plugin.ini", "", "", false},
		{"a directory relative to it", "env = A=1", false, "plugins-dir = priv\nplugin = rack_215", "/etc/vassals/priv/rack_215_plugin.ini", "", "", false},
		{"a path with a user's words", "where = /srv/x/priv", false, "plugin = %(where)/rack_215.ini", priv, "", "not root's alone", false},
		{"a user's directory in a file that root's includes", "include = /home/bob/a.ini\nplugin = rack_215", true, "", priv, "", "", false},
		{"an operator's directory that holds another's", "plugin = rack_215", true, "plugins-dir = /srv/x/priv", priv, "", "is no registration", true},
		{"a file of root's that a user names", "plugin = rack_215", false, "", RegistrationDir + "/rack_215_plugin.ini", RegistrationDir + "/rack_215_plugin.ini", "is no registration", true},
		{"a file of root's that root names", "plugin = rack_215", true, "plugins-dir = /srv/x/priv", priv, priv, secret, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := &owned{mapHost: &mapHost{files: fstest.MapFS{"home/bob/a.ini": {Data: []byte("[uwsgi]\nplugins-dir = /srv/x/priv\n")}}}}
			operator := &owned{mapHost: &mapHost{files: fstest.MapFS{c.file[1:]: {Data: []byte(broken)}}}, operator: map[string]bool{c.owner: true}}
			if c.operator {
				operator.files["home/bob/a.ini"] = own.files["home/bob/a.ini"]
				own = operator
			}
			opt := ReadOptions{Known: Known, Operator: operator, Before: []Layered{{Path: "/etc/liege/emperor.ini", Layer: vassal.Defaults, Text: []byte("[defaults]\n" + c.defaults + "\n"), Section: "defaults"}}}
			_, ps := Read(Source{Path: "/etc/vassals/shop.ini", Text: []byte("[uwsgi]\n" + c.own + "\n"), Trust: vassal.Trust{Operator: c.operator, UID: 1000}}, own, opt)
			if got := slices.Contains(operator.asked, c.file); got != c.asked {
				t.Errorf("root asked: %v", operator.asked)
			}
			said := fmt.Sprint(ps)
			if ps.Failed() != (c.want != "") || !strings.Contains(said, c.want) || strings.Contains(said, secret) != (c.want == secret) {
				t.Errorf("want %q: %s", c.want, said)
			}
		})
	}
}
