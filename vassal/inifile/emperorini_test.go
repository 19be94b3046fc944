package inifile

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
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
min-uid = 500
[emperor]
cgroup = /liege.slice/liege-vassals.service/
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
	want.Ceilings = Ceilings{MinUID: 500, Net: []string{"host"}, Listen: []string{"127.0.0.1:1024-65535", "/run/liege/**"}, Bind: []string{"/home", "/srv"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestDecodeEmperorProblems(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"[emperor]\nvassal = /x", "error unknown-option 2 vassal: unknown in [emperor]; did you mean vassals?"},
		{"[emperor]\nuid = x", "error unknown-option 2 uid: unknown in [emperor]"},
		{"[emperor]\nvassals = here", `error bad-value 2 vassals: "here" is not an absolute path`},
		{"[emperor]\ntouch = maybe", `error bad-value 2 touch: "maybe" is not one of reload, ignore`},
		{"[ceilings]\nmemory-max = much", `error bad-value 2 memory-max: "much" is not a number`},
		{"[ceilings]\nnet = wifi", `error bad-value 2 net: "wifi" is not a network`},
		{"[defaults]\nproceses = 2", "warning unknown-option 2 proceses: unknown; did you mean processes?"},
		{"x = 1\n[emperor]", "error syntax 1 : text before the first section"},
		{"[emperor\n", "error syntax 1 : section line without ]"},
		{"[emperor]\netc = ../shadow", `error bad-value 2 etc: "../shadow" is not a name below /etc`},
	} {
		_, ps := DecodeEmperor("/e", []byte(tt.text))
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
