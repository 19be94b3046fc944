package inifile

import (
	gocmp "cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/vassal"
	"liege/vassal/action"
)

var update = flag.Bool("update", false, "rewrite goldens and generated documents")

// chain is what happens to a vassal's file: emperor.ini if the archive has
// one, Read, Decode. Words of the comment: "tenant", "serve".
func chain(ar *txtar.Archive) (vassal.Config, vassal.Problems) {
	src := Source{Path: ar.Files[0].Name, Text: ar.Files[0].Data, Trust: vassal.Trust{Operator: true}}
	emperor, ps := DecodeEmperor("/etc/liege/emperor.ini", archived(ar, "/etc/liege/emperor.ini"))
	pol := emperor.Policy
	for word := range strings.FieldsSeq(string(ar.Comment)) {
		switch word {
		case "tenant":
			src.Trust = vassal.Trust{UID: 1004, GID: 1004}
		case "serve":
			pol.Serve = true
		}
	}
	f, more := Read(src, archiveHost(ar), emperor.ReadOptions())
	cfg, last := Decode(f, pol)
	return cfg, slices.Concat(ps, more, last)
}

// TestDecode compares testdata/decode/*.txtar: the first file is the vassal's,
// "out" is what became of it as far as it differs from an empty file's Config,
// and the problems.
func TestDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no goldens", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := string(archived(ar, "out"))
			ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == "out" })
			cfg, ps := chain(ar)
			empty, _ := chain(&txtar.Archive{Comment: ar.Comment, Files: []txtar.File{{Name: ar.Files[0].Name, Data: []byte("[uwsgi]\n")}}})
			empty.Digest = cfg.Digest
			got := changes(empty, cfg) + problemText(ps)
			if *update {
				ar.Files = append(ar.Files, txtar.File{Name: "out", Data: []byte(got)})
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// changes lists the members of b that differ from a's, by path.
func changes(a, b vassal.Config) string {
	var r reporter
	cmp.Equal(a, b, cmp.Reporter(&r))
	return r.String()
}

type reporter struct {
	path cmp.Path
	strings.Builder
}

func (r *reporter) PushStep(s cmp.PathStep) { r.path = append(r.path, s) }
func (r *reporter) PopStep()                { r.path = r.path[:len(r.path)-1] }
func (r *reporter) Report(res cmp.Result) {
	if res.Equal() {
		return
	}
	name := strings.TrimPrefix(r.path.GoString(), "root.")
	if name = strings.NewReplacer("{vassal.Config}.", "", "root", "").Replace(name); strings.Contains(name, "At.") || name == "" {
		return
	}
	if strings.HasPrefix(name, "App.Keys") {
		return // the lines as they stand: TestKeys
	}
	_, v := r.path.Last().Values()
	fmt.Fprintf(r, "%s = %s\n", name, show(v.Interface()))
}

// show prints x without what is zero, so that a new member changes no golden.
func show(x any) string {
	var b strings.Builder
	showValue(&b, reflect.ValueOf(x))
	return b.String()
}

func showValue(b *strings.Builder, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		showValue(b, v.Elem())
	case v.Type() == reflect.TypeFor[vassal.Origin]():
		fmt.Fprintf(b, "line %d", v.FieldByName("Line").Int())
	case v.Kind() == reflect.Struct:
		b.WriteByte('{')
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				fmt.Fprintf(b, " %s:", v.Type().Field(i).Name)
				showValue(b, v.Field(i))
			}
		}
		b.WriteString(" }")
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			b.WriteString("\n    ")
			showValue(b, v.Index(i))
		}
	default:
		fmt.Fprintf(b, "%v", v)
	}
}

func problemText(ps vassal.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %s: %s\n", p.Severity, p.Code, strings.TrimPrefix(p.Error(), "/etc/vassals/"))
		if p.Hint != "" {
			fmt.Fprintf(&b, "    hint: %s\n", p.Hint)
		}
	}
	return b.String()
}

// TestEveryWorkingOptionIsApplied: an option whose class says that it works, or
// whose value counts in another way, has somewhere to go.
func TestEveryWorkingOptionIsApplied(t *testing.T) {
	for _, o := range Options() {
		if (o.Class != Works || o.Type == Language) && !(o.Class == Otherwise && heard(&o)) {
			continue
		}
		d := &decoder{f: &File{}, plugins: map[string]bool{}, places: map[string][]int{}, seen: map[string]vassal.Origin{}}
		if !d.apply(value{Setting: Setting{Key: o.Name, Value: "a:b=c", Origin: vassal.Origin{Line: 1}}, opt: &o, n: 1, on: true}) {
			t.Errorf("%s: its class is %q, and nothing takes it", o.Name, o.Class)
		}
	}
}

// TestDecodeIsCheap: the Emperor decodes tenants' files, so the worst megabyte
// must not keep it busy.
func TestDecodeIsCheap(t *testing.T) {
	for name, text := range map[string]string{
		"unknown keys": repeat(func(i int) string { return fmt.Sprintf("prcesse%x = 1", i) }),
		"plugins":      "plugins = " + strings.ReplaceAll(repeat(func(i int) string { return fmt.Sprintf("p%x", i) }), "\n", ","),
		"environment":  repeat(func(i int) string { return fmt.Sprintf("env = A%x=1\nunenv = A%x", i%2, i%2) }),
		"listeners":    repeat(func(i int) string { return fmt.Sprintf("http = :%d", i) }),
		"bad values":   repeat(func(int) string { return "harakiri = x" }),
	} {
		f := &File{Source: Source{Path: "/etc/vassals/shop.ini"}}
		for i, l := range strings.Split(text, "\n") {
			k, v, _ := strings.Cut(l, " = ")
			f.Settings = append(f.Settings, Setting{Key: k, Value: v, Origin: vassal.Origin{Line: i + 1}})
		}
		start := time.Now()
		_, ps := Decode(f, Policy{})
		if d := time.Since(start); d > 5*time.Second { // about 0.1 s on a quiet machine
			t.Errorf("%s: %v", name, d)
		}
		if len(ps) > MaxProblems+1 || !ps.Failed() {
			t.Errorf("%s: %d problems, failed: %v", name, len(ps), ps.Failed())
		}
	}
}

// repeat joins lines up to MaxSettings.
func repeat(line func(int) string) string {
	var b strings.Builder
	for i := range MaxSettings / 2 {
		b.WriteString(line(i))
		b.WriteByte('\n')
	}
	return b.String()
}

// FuzzDecode: whatever the text says, a tenant's file gets nothing that only
// root may give, and what Decode promises holds.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/decode/*.txtar")
	for _, name := range files {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(ar.Files[0].Data), true)
		f.Add(string(ar.Files[0].Data), false)
	}
	f.Fuzz(func(t *testing.T, text string, operator bool) {
		ar := &txtar.Archive{Files: []txtar.File{{Name: "/etc/vassals/shop.ini", Data: []byte(text)}}}
		if !operator {
			ar.Comment = []byte("tenant")
		}
		cfg, ps := chain(ar)
		ofRoot := slices.ContainsFunc(cfg.Hooks, func(h vassal.Hook) bool { return h.Phase.Place() != vassal.AtCore })
		if !operator && (ofRoot || cfg.Ident.Context != "" || len(cfg.Ident.AddGroups) > 0) {
			t.Errorf("a tenant's file got %+v %+v", cfg.Hooks, cfg.Ident)
		}
		if w := cfg.App.Workers; w != nil && (w.Processes < 1 || w.Threads < 1 || w.Python == nil && w.Ruby == nil && w.Perl == nil) {
			t.Errorf("workers %+v", w)
		}
		for _, l := range cfg.Listen {
			if l.Address == "" || l.Protocol == "" {
				t.Errorf("listener %+v", l)
			}
		}
		for _, h := range cfg.Hooks {
			if err := action.Check(h); err != nil {
				t.Errorf("hook %+v: %v", h, err)
			}
		}
		r := cfg.Restart
		if r.DrainTimeout <= cfg.App.Drain || r.ReadyTimeout <= 0 || r.BackoffMin <= 0 || r.BackoffMax < r.BackoffMin {
			t.Errorf("restart %+v, drain %v", r, cfg.App.Drain)
		}
		for _, p := range ps {
			if p.Code == "" || p.Message == "" {
				t.Errorf("problem %+v", p)
			}
		}
	})
}

// TestWorks holds that every option of class Works can be used: a plain value
// of its type is neither a mistake nor without effect.
func TestWorks(t *testing.T) {
	for _, o := range Options() {
		if o.Class != Works || o.Type == Language {
			continue
		}
		lead := ""
		value := map[Type]string{Bool: "true", Int: "64", Size: "64M", Duration: "7", Number: "1.5", Mode: "640", Keyval: "/a=/srv/a", Address: "127.0.0.1:9"}[o.Type]
		switch o.Name {
		case "env":
			value = "A=1"
		case "protocol":
			value = "uwsgi"
		case "add-header":
			value = "X-Frame-Options: DENY"
		case "rem-header":
			value = "Server"
		case "collect-header", "pull-header":
			value = "X-Sendfile X_SENDFILE"
		case "net":
			value = "host"
		case "wait-for-interface":
			value = "eth0"
		case "egress":
			value = "deny any"
		case "bind":
			value = "/srv/a"
		case "exec-protocol":
			value = "h2c"
		case "overlap":
			value = "no"
		case "hook-daemons":
			value = "keep"
		case "selinux-context":
			value = "u:r:t:s0"
		case "req-logger":
			value = "file:/srv/a/log"
		case "cheaper-algo":
			value = "spare"
		case "cheaper":
			value = "0"
		case "mount":
			value = "/a=a.py"
		case "cgi-map-helper":
			value = ".lua=lua"
		case "cgi-index":
			value = "index.lua"
		case "farm":
			value = "f:1"
			lead = "mules = 1\n"
		case "curl-cron":
			value = "-1 -1 -1 -1 -1 http://127.0.0.1/"
		case "cron", "unique-cron":
			value = "-1 -1 -1 -1 -1 /bin/true"
		case "cron2":
			value = "minute=-5,unique=1 /bin/true"
		case "mules":
			value = "2"
		case "timer", "rbtimer":
			value = "17 60"
		case "touch-exec", "touch-signal", "fs-signal":
			value = "/srv/a/flag 17"
		case "http-to", "http-fallback":
			value = "/run/app.sock"
		case "http-var":
			value = "A=b"
		case "logger":
			value = "file:/srv/a/log"
		case "log-req-encoder":
			value = "prefix a"
		case "remap-modifier":
			value = "5:0"
		case "allowed-modifiers":
			value = "0,9"
		case "http-modifier1", "http-socket-modifier1", "https-socket-modifier1", "fastcgi-modifier1", "scgi-modifier1":
			value = "0"
		case "smart-attach-daemon", "smart-attach-daemon2":
			value = "/tmp/d.pid sleep 1"
		case "attach-daemon2":
			value = "cmd=sleep 1"
		case "https", "https-socket", "suwsgi-socket":
			value = "127.0.0.1:9,/srv/a.pem,/srv/a.key"
		case "https2":
			value = "addr=127.0.0.1:9,cert=/srv/a.pem,key=/srv/a.key"
		case "http-to-https":
			value = "127.0.0.1:9,8443"
		case "ssl-verify-depth":
			value = "2"
		case "static-expires-type", "static-expires-type-mtime":
			value = "image/png=60"
		default:
			if o.Type == Routing {
				value = ruleFor(o.Name)
			} else if strings.HasPrefix(o.Name, "static-expires") {
				value = "^/a 60"
			} else if value == "" {
				value = "/srv/a"
			}
		}
		switch form, _, _ := strings.Cut(o.Name, "-"); {
		case o.Name == "hook-touch":
			value = "/srv/a/flag exec:true"
		case o.Group == "Hooks" && o.Type == Action:
			value = map[string]string{"hook": "exec:true", "mount": "tmpfs tmpfs /srv/a", "umount": "/srv/a"}[form]
		case o.Group == "Hooks" && form == "call":
			value = "chdir /srv/a"
		}
		if strings.HasPrefix(o.Name, "sni") {
			value = map[string]string{"sni": "a.example /srv/a.pem,/srv/a.key", "sni-regexp": "^a /srv/a.pem,/srv/a.key", "sni-dir": "/srv/a", "sni-dir-ciphers": "HIGH"}[o.Name]
		}
		base := "[vassal]\nuid = www-data\nhttp-socket = 127.0.0.1:8\nwsgi-file = /srv/a/app.py\n" + lead
		switch o.Name {
		case "sni", "sni-regexp", "sni-dir":
			base += "https = :443,/srv/a.pem,/srv/a.key\n"
		case "hostname":
			value = "a"
		case "io-max":
			value = "/srv/a wbps=20M"
		case "cap":
			value = "chown"
		case "limit-nice":
			value = "30"
		case "namespaces":
			value = "time"
		case "shared-socket":
			base = strings.Replace(base, "127.0.0.1:8", "=0", 1)
		case "log-maxsize":
			value = "1000000"
		case "metric":
			value = "logins"
		case "cache2":
			value = "name=a,items=10"
		case "add-cache-item", "check-cache", "load-file-in-cache", "load-file-in-cache-gzip":
			base += "cache2 = name=a,items=10\n"
			value = map[string]string{"add-cache-item": "a=b", "check-cache": "a"}[o.Name]
			value = gocmp.Or(value, "/srv/a/b")
		case "alarm":
			value = "down log:"
		case "metric-threshold":
			value = "key=rss_size,value=1"
		case "alarm-backlog", "alarm-segfault":
			base += "alarm = down log:\n"
			value = "down"
		case "log-alarm", "not-log-alarm":
			base += "alarm = down log:\n"
			value = "down ^a"
		case "cgi":
			base += "http-socket-modifier1 = 9\n"
		case "exec", "rack", "rails", "psgi", "eval", "paste", "pecan":
			base = strings.ReplaceAll(base, "wsgi-file", "chdir")
		case "module", "asgi": // instead of the file, not beside it
			base, value = strings.ReplaceAll(base, "wsgi-file", "chdir"), "a"
		}
		_, ps := chain(&txtar.Archive{Files: []txtar.File{{Name: "a.ini", Data: []byte(base + o.Name + " = " + value + "\n")}}})
		for _, p := range ps {
			if p.Key == o.Name && p.Severity != vassal.Note {
				t.Errorf("%s = %s: %v", o.Name, value, p)
			}
		}
	}
}

// ruleFor is a rule that fits the option.
func ruleFor(option string) string {
	switch {
	case strings.HasSuffix(option, "-label"):
		return "here"
	case strings.HasSuffix(option, "-run"):
		return "log:hello"
	case strings.HasSuffix(option, "-if"), strings.HasSuffix(option, "-if-not"):
		return "equal:${HTTPS};on last:"
	}
	return "^/a addvar:A=b"
}

// TestDefaultPids: a vassal that no line bounds is bounded all the same, and
// what the operator says comes before it.
func TestDefaultPids(t *testing.T) {
	text := "[uwsgi]\nuid = nobody\nhttp = :8080\ncheck-static = /usr/share\n"
	for _, tc := range []struct {
		name, lines string
		policy      Policy
		want        int64
	}{
		{"nothing said", "", Policy{}, DefaultPids},
		{"a line", "pids-max = 7\n", Policy{}, 7},
		{"a ceiling", "", Policy{PidsMax: Ceiling{Value: 99}}, 99},
		{"liege serve makes no cgroup", "", Policy{Serve: true}, 0},
	} {
		f, _ := Read(Source{Path: "/etc/vassals/x.ini", Text: []byte(text + tc.lines), Trust: vassal.Trust{Operator: true}}, NewOSHost(nil), ReadOptions{Known: Known})
		cfg, ps := Decode(f, tc.policy)
		if ps.Failed() || cfg.Limits.PidsMax != tc.want {
			t.Errorf("%s: %d, want %d (%v)", tc.name, cfg.Limits.PidsMax, tc.want, ps)
		}
	}
}
