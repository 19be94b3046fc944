package inifile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
	"liege/vassal/mail"
)

func TestDecodeEmperor(t *testing.T) {
	const file = "/etc/liege/emperor.ini"
	text := []byte(strings.TrimLeft(`
; the whole of it
[uwsgi]
emperor = glob:///srv/*/uwsgi.ini
vassal-set = processes=2
vassals-include-before = /usr/share/liege/debian-uwsgi.ini
vassals-include = /etc/liege/enforce.ini
emperor-use-clone = fs,pid
[emperor]
vassals = /etc/vassals
control-group = liege
start-concurrency = 4
touch = ignore
selinux = warn
rescan = 500ms
etc = myapp.conf /etc/other
[defaults]
uid = www-data
memory-max = 512M
[ceilings]
memory-max = 2G
cpu-max = 1.5
net = host
listen = 127.0.0.1:1024-65535 /run/liege/**
bind = /home /srv
sendmail-sender = %U@web1.example
sendmail-sender = *@%U.example <>
sendmail-rate = 100/h
min-uid = 500
[emperor]
cgroup = /liege.slice/liege-vassals.service/
nat-pool = 10.99.0.0/24
nat-pool6 = no
[ceilings]
egress = 10.0.0.7:5432 any:25
`, "\n"))
	got, ps := DecodeEmperor(file, text)
	for _, p := range ps {
		if p.Severity != vassal.Note {
			t.Errorf("%v", p.Error())
		}
	}
	want := DefaultEmperorConfig()
	want.Vassals = []string{"glob:///srv/*/uwsgi.ini", "/etc/vassals"}
	want.ControlGroup, want.Concurrency, want.Touch, want.SELinux, want.Rescan = "liege", 4, false, "warn", 500*time.Millisecond
	want.Cgroup = "/liege.slice/liege-vassals.service"
	want.Etc = []string{"myapp.conf", "other"}
	want.DefaultUID = "www-data"
	want.Defaults = Layered{Path: file, Section: "defaults", Text: text, Layer: vassal.Defaults}
	want.Set = []Preset{{Key: "processes", Value: "2", Origin: vassal.Origin{File: file, Line: 4, Layer: vassal.Defaults}}}
	want.IncludeBefore, want.Include = []string{"/usr/share/liege/debian-uwsgi.ini"}, []string{"/etc/liege/enforce.ini"}
	at := func(n int) vassal.Origin { return vassal.Origin{File: file, Line: n} }
	want.Policy = Policy{MemoryMax: Ceiling{2 << 30, at(20)}, CPUMax: Ceiling{1.5, at(21)}}
	want.Ceilings = Ceilings{MinUID: 500, Net: []string{"host"}, Listen: []string{"127.0.0.1:1024-65535", "/run/liege/**"}, Bind: []string{"/home", "/srv"},
		Mail: mail.Caps{Senders: []string{"%U@web1.example", "*@%U.example", "<>"}, Rate: mail.Rate{N: 100, Per: time.Hour}}}
	want.NATPool, want.NATPool6 = netip.MustParsePrefix("10.99.0.0/24"), netip.Prefix{}
	want.Ceilings.Egress = []vassal.Egress{
		{Allow: true, Target: "10.0.0.7:5432", At: at(34)},
		{Allow: true, Target: "any:25", At: at(34)},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestDecodeEmperorProblems(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"[emperor]\nvassal = /x", "error unknown-option 2 vassal: unknown in [emperor]; did you mean vassals?"},
		{"[emperor]\nnat-pool = 10.0.0.0/25", "error bad-value 2 nat-pool: \"10.0.0.0/25\" is not a network with 8 to 24 bits"},
		{"[emperor]\nnat-pool = 10.0.0.1/16", "error bad-value 2 nat-pool: \"10.0.0.1/16\" is not a network with 8 to 24 bits"},
		{"[emperor]\nnat-pool6 = 10.0.0.0/8", "error bad-value 2 nat-pool6: \"10.0.0.0/8\" is not a network with 8 to 96 bits"},
		{"[ceilings]\negress = db:5432", "error bad-value 2 egress: \"db:5432\" names no address"},
		{"[emperor]\nemperor-tyrant = true", "error unknown-option 2 emperor-tyrant: unknown in [emperor]: there it is tyrant"},
		{"[emperor]\nuid = x", "error unknown-option 2 uid: unknown in [emperor]"},
		{"[emperor]\nvassals = here", `error bad-value 2 vassals: "here" is not an absolute path`},
		{"[emperor]\ntouch = maybe", `error bad-value 2 touch: "maybe" is not one of reload, ignore`},
		{"[ceilings]\nmemory-max = much", `error bad-value 2 memory-max: "much" is not a number`},
		{"[ceilings]\nnet = wifi", `error bad-value 2 net: "wifi" is not a network`},
		{"[ceilings]\nroot = flase", `error bad-value 2 root: "flase" is neither true nor false`},
		{"[emperor]\ntyrant = none", `error bad-value 2 tyrant: "none" is neither true nor false`},
		{"[ceilings]\nlisten = 8080", `warning bad-value 2 listen: "8080" is no address to listen on, and lets nobody`},
		{"[ceilings]\nlisten = 10.0.0.0/8", `warning bad-value 2 listen: "10.0.0.0/8" is no address to listen on, and lets nobody`},
		{"[ceilings]\nlisten = 127.0.0.1:90-80", `warning bad-value 2 listen: "127.0.0.1:90-80" is no address to listen on, and lets nobody`},
		{"[ceilings]\nlisten = srv/**", `warning bad-value 2 listen: "srv/**" is no address to listen on, and lets nobody`},
		{"[ceilings]\nsendmail-sender = a@b *", `error bad-value 2 sendmail-sender: "*" is not a sender`},
		{"[ceilings]\nsendmail-rate = 100", `error bad-value 2 sendmail-rate: "100" is not a rate`},
		{"[ceilings]\nsendmail = no", "error unknown-option 2 sendmail: unknown in [ceilings]"},
		{"[defaults]\nproceses = 2", "warning unknown-option 2 proceses: unknown; did you mean processes?"},
		{"[defaults]\napp = x\nproceses = 2", "warning unknown-option 3 proceses: unknown; did you mean processes?"}, // vassals may refer to app
		{"[ceiling]\nmemory-max = 1G", "error no-section 1 : unknown section [ceiling]; did you mean [ceilings]?"},
		{"[Default]\nuid = x", "error no-section 1 : unknown section [Default]; did you mean [defaults]?"},
		{"[limits]\nmemory-max = 1G", "error no-section 1 : unknown section [limits]: nothing of it would hold"},
		{"[vassal]\nuid = x", "error no-section 1 : [vassal] is a section of a vassal's file"},
		{"[uwsgi]\n[common]\nuid = x", "warning no-section 2 : section [common] is not read"},
		{"[uwsgi]\nemperor-use-clone = pid\nemperor-freq = 2", ""}, // notes
		{"[uwsgi]\nemperor-extra-extension = .conf", "warning not-yet 2 emperor-extra-extension: not yet: names that end in .ini are read, and no others"},
		{"[uwsgi]\nemperor-magic-exec = true", "warning refused 2 emperor-magic-exec: a program named by a vassal's file is never run by the Emperor as root"},
		{"[uwsgi]\nemperor-use-clone = pid,usr", "error bad-value 2 emperor-use-clone: \"usr\" is not a namespace"},
		{"[uwsgi]\ncall-as-vassal1 = x", "error refused 2 call-as-vassal1: symbols of libraries are not called: use exec hooks"},
		{"[uwsgi]\nhook-as-root = print:x", "warning not-yet 2 hook-as-root: has no meaning for Liege's Emperor"},
		{"[uwsgi]\nvassals-start-hook =", "error bad-value 2 vassals-start-hook: is empty"},
		{"x = 1\n[emperor]", "error syntax 1 : text before the first section"},
		{"[emperor\n", "error syntax 1 : section line without ]"},
		{"[emperor]\netc = ../shadow", `error bad-value 2 etc: "../shadow" is not a name below /etc`},
	} {
		_, ps := DecodeEmperor("/e", []byte(tt.text))
		ps = slices.DeleteFunc(ps, func(p vassal.Problem) bool { return p.Severity == vassal.Note })
		if tt.want == "" && len(ps) == 0 {
			continue
		}
		if len(ps) != 1 {
			t.Errorf("%q: %d problems: %v", tt.text, len(ps), ps)
			continue
		}
		p := ps[0]
		got := string(p.Severity) + " " + p.Code + " " + string(rune('0'+p.Line)) + " " + p.Key + ": " + p.Message
		if got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

// Rules of listen have the form that addresses have, which is what they are compared
// with.
func TestListenRules(t *testing.T) {
	c, ps := DecodeEmperor("/e", []byte("[ceilings]\nlisten = :8000-8999 localhost:80 *:443 [::1]:* unix:/srv/*.sock /run/x/** @a* * [::]:8[0-9][0-9]* 10.0.0.*"))
	want := []string{"0.0.0.0:8000-8999", "127.0.0.1:80", "*:443", "[::1]:*", "/srv/*.sock", "/run/x/**", "@a*", "*", "[::]:8[0-9][0-9]*", "10.0.0.*"}
	if d := cmp.Diff(want, c.Ceilings.Listen); d != "" || len(ps) > 0 {
		t.Errorf("%v\n%s", ps, d)
	}
	for _, rule := range []string{"80", ":700-*", ":90-80", "a.sock", "*:http"} {
		if _, ps := DecodeEmperor("/e", []byte("[ceilings]\nlisten = "+rule)); len(ps) != 1 {
			t.Errorf("%s: %v", rule, ps)
		}
	}
}

func FuzzDecodeEmperor(f *testing.F) {
	f.Add("[emperor]\nvassals = /etc/vassals\n[defaults]\nuid = x\n[ceilings]\nmemory-max = 2G")
	f.Fuzz(func(t *testing.T, text string) {
		_, ps := DecodeEmperor("/etc/liege/emperor.ini", []byte(text))
		for _, p := range ps {
			if p.Code == "" || p.Message == "" {
				t.Errorf("problem %+v", p)
			}
		}
	})
}

// TestEmperorHooks: the lines of every vassal, the Emperor's own, and what is
// wrong with them.
func TestEmperorHooks(t *testing.T) {
	text := "[uwsgi]\nexec-as-emperor = echo $UWSGI_VASSAL_PID\n[emperor]\nhook-as-vassal = print:x\nhook-emperor-start = mkdir:/run/x\nhook-emperor-stop = !exec:true\n" +
		"hook-emperor-start = chown:/run/x root root\nhook-as-emperor = nothing\nhook-as-root = print:x\nhook-emperor-start = exit:\n" +
		"[uwsgi]\nvassals-start-hook = /srv/other\nvassals-start-hook = /srv/it's here\n"
	c, ps := DecodeEmperor("e.ini", []byte(text))
	var set, own, wrong []string
	for _, p := range c.Set {
		set = append(set, fmt.Sprint(p.Key, " ", p.Value, " ", p.Origin.Line, " ", p.Origin.Layer))
	}
	for _, h := range c.Hooks {
		own = append(own, fmt.Sprint(h.Phase, " ", h.Action, " ", h.Private, " ", h.At.Line))
	}
	for _, p := range ps {
		wrong = append(wrong, fmt.Sprint(p.Severity, " ", p.Line, " ", p.Code))
	}
	got := [][]string{set, own, wrong}
	want := [][]string{
		{"exec-as-emperor echo $UWSGI_VASSAL_PID 2 [defaults]", `exec-as-emperor '/srv/it'\''s here' "${UWSGI_VASSAL_CONFIG##*/}" 13 [defaults]`, "hook-as-vassal print:x 4 [defaults]", "hook-as-emperor nothing 8 [defaults]"},
		{"emperor-start mkdir false 5", "emperor-end exec true 6"},
		{"error 7 bad-hook", "error 8 bad-hook", "error 9 unknown-option", "error 10 bad-hook"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
