package inifile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"liege/vassal"
)

// Who wrote a part of a line wrote the line: the mark follows a user's text on
// every way by which it comes into one of the operator's.
func TestTenantMark(t *testing.T) {
	type read struct {
		own      string // the vassal's file
		operator bool   // whose it is
		defaults string
		include  string // vassals-include
	}
	known := func(name string) bool {
		return slices.Contains([]string{"master", "memory-max", "env", "pidfile", "hook-pre-jail"}, name)
	}
	const (
		user  = "/home/bob/app.ini"
		theft = "s3cret"
	)
	for name, tc := range map[string]struct {
		read
		bob  string   // what bob's file says, which an operator's file may include
		want []string // of the settings in question: key = value, "user's" before those that are
		ask  string   // in the problem there has to be
	}{
		"an option declared": {read: read{own: "declare-option = master=hook-pre-jail=exec:id", defaults: "master = true"},
			want: []string{"master = true"}, ask: "master is an option"},
		"a name of the operator's declared": {read: read{own: "declare-option = site=hook-pre-jail=exec:id\nsite = mine", defaults: "site = x"},
			want: []string{"site = x", "user's site = mine", "user's hook-pre-jail = exec:id"}},
		"the operator's declaration": {read: read{own: "declare-option = site=hook-pre-jail=exec:rm\nsite = mine", defaults: "declare-option = site=env=S=$1"},
			want: []string{"user's site = mine", "user's env = S=mine"}},
		"declared in an included file": {read: read{own: "include = " + user + "\nsite = x\ndeclare-option = site=env=S=$1", operator: true}, bob: "declare-option = site=hook-pre-jail=exec:id",
			want: []string{"site = x", "env = S=x"}},
		"an include that is declared": {read: read{own: "declare-option = site=include=/root/$1.ini\ninclude = " + user + "\nsite = %(kind)", operator: true}, bob: "set-placeholder = kind=key",
			want: []string{"user's site = key"}, ask: "not root's alone"},
		"if-opt": {read: read{own: "include = " + user + "\nif-opt = cmd\nhook-pre-jail = exec:%(_)\npidfile = /run/p\nendif =", operator: true}, bob: "cmd = id",
			want: []string{"user's hook-pre-jail = exec:id", "pidfile = /run/p"}},
		"if-not-opt": {read: read{own: "include = " + user + "\nif-not-opt = cmd=no\nhook-pre-jail = exec:%(_)\nendif =", operator: true}, bob: "cmd = id",
			want: []string{"user's hook-pre-jail = exec:id"}},
		"if-opt in vassals-include": {read: read{own: "cmd = id", include: "if-opt = cmd\nhook-pre-jail = exec:%(_)\nendif ="},
			want: []string{"user's hook-pre-jail = exec:id"}},
		"a question in what if-opt gives": {read: read{own: "include = " + user + "\nif-opt = cmd\nenv = K=%(_)\nendif =", operator: true}, bob: "set-placeholder = cmd=@(/root/key)",
			want: []string{"user's env = K=@(/root/key)"}},
		"an include of if-opt": {read: read{own: "include = " + user + "\nif-opt = cmd\ninclude = %(_)\nendif =", operator: true}, bob: "cmd = /root/key.ini",
			ask: "not root's alone"},
		"a file that lines of a file name": {read: read{own: "for-readline = /home/bob/path\nenv = A=@(/root/../%(_))\nendfor =", operator: true},
			want: []string{"user's env = A="}, ask: "not root's alone"},
		"a file that if-opt names": {read: read{own: "include = " + user + "\nif-opt = kind\nenv = A=@(/root/%(_))\nenv = B=%(_)\nendif =", operator: true}, bob: "kind = key",
			want: []string{"user's env = A=", "user's env = B=key"}, ask: "not root's alone"},
		"a file that a pattern finds": {read: read{own: "for-glob = /home/bob/pat*\nenv = A=@(%(_))\nendfor =", operator: true},
			want: []string{"user's env = A=/etc/x"}},
		"a file that has the name of what a pattern finds": {read: read{own: "for-glob = /home/bob/pat*\nenv = A=@(/root%(_))\nendfor =", operator: true},
			want: []string{"user's env = A="}, ask: "not root's alone"},
		"a file, through what is set": {read: read{own: "for-readline = /home/bob/path\nset = env=A=@(/root/%(_))\nendfor =", operator: true},
			want: []string{"user's env = A="}, ask: "not root's alone"},
		"a variable that lines of a file name": {read: read{own: "for-readline = /home/bob/path\nenv = A=$(%(_))$(X:-%(_))\nendfor =", operator: true},
			want: []string{"user's env = A=/etc/x"}, ask: "not root's alone"},
		"a sum of lines of a file": {read: read{own: "include = " + user + "\nif-opt = n\nset-placeholder = m=%(_)\nendif =\nmemory-max = %(m + 1)", operator: true}, bob: "n = 4",
			want: []string{"user's memory-max = 5"}},
		"a file of the operator's beside them": {read: read{own: "for-readline = /home/bob/path\nenv = A=%(_)@(/root/key)\nendfor =", operator: true},
			want: []string{"user's env = A=/etc/x" + theft}},
		"a file": {read: read{own: "pidfile = @(/home/bob/path)\nenv = A=@(/root/key)", operator: true},
			want: []string{"user's pidfile = /etc/x", "env = A=" + theft}},
		"lines of a file": {read: read{own: "for-readline = /home/bob/path\npidfile = %(_)\nenv = A=1\nendfor =", operator: true},
			want: []string{"user's pidfile = /etc/x", "env = A=1"}},
		"names in a user's directory": {read: read{own: "for-glob = /home/bob/*.d\npidfile = %(_)\nendfor =", operator: true},
			want: []string{"user's pidfile = /home/bob/x.d/"}},
		"names below it": {read: read{own: "for-glob = /home/bob/*.d/*\npidfile = %(_)\nendfor =", operator: true},
			want: []string{"user's pidfile = /home/bob/x.d/conf"}},
		"names in a directory of root's that a user can move": {read: read{own: "for-glob = /home/bob/roots/*\npidfile = %(_)\nendfor =", operator: true},
			want: []string{"user's pidfile = /home/bob/roots/conf"}},
		"names in root's": {read: read{own: "for-glob = /home/*\npidfile = %(_)\nendfor =", operator: true},
			want: []string{"pidfile = /home/bob/"}},
		"inherit": {read: read{own: "include = " + user + "\ninherit = /root/%(kind).ini", operator: true}, bob: "set-placeholder = kind=key",
			ask: "not root's alone"},
		"a hook of the operator's, read": {read: read{own: "env = A=%(hook-pre-jail)\nenv = B=%(site)\nif-opt = hook-pre-jail\nenv = C=%(_)\nendif =", defaults: "hook-pre-jail = exec:curl " + theft + "\nsite = x"},
			want: []string{"hook-pre-jail = exec:curl " + theft, "site = x", "user's env = A=%(hook-pre-jail)", "user's env = B=x"}},
		"a name that the operator defines too": {read: read{own: "include = " + user + "\nset-placeholder = cmd=true\nhook-pre-jail = exec:%(cmd)", operator: true}, bob: "set-placeholder = cmd=id",
			want: []string{"hook-pre-jail = exec:true"}},
		"the same in a formula": {read: read{own: "include = " + user + "\nmemory-max = %(n * 2)\nn = 8", operator: true}, bob: "n = 900",
			want: []string{"memory-max = 16"}},
		"the same in if-opt": {read: read{own: "include = " + user + "\nkind = small\nif-opt = kind=big\nmemory-max = 9\nendif =\nif-not-opt = kind=big\nmemory-max = 1\nendif =", operator: true}, bob: "kind = big",
			want: []string{"memory-max = 1"}},
		"the same in vassals-include": {read: read{own: "plan = 100", include: "set-placeholder = plan=5\nmemory-max = %(plan)\nenv = A=%(other)\nother = x"},
			want: []string{"memory-max = 5", "env = A=x"}},
		"a name that the user's words give": {read: read{own: "for-readline = /home/bob/path\nset = %(_)=y\nendfor =\nenv = A=%(/etc/x)\n/etc/x = mine", operator: true},
			want: []string{"env = A=mine"}},
		"what the operator leaves open": {read: read{own: "plan = 100", include: "memory-max = %(plan)"},
			want: []string{"user's memory-max = 100"}},
		"a user's line with both": {read: read{own: "site = mine\nenv = A=%(site)", include: "site = x\nenv = B=%(site)"},
			want: []string{"user's site = mine", "user's env = A=mine", "site = x", "env = B=x"}},
		"a section of the operator's": {read: read{own: "include = " + user + "\nini = :more", operator: true}, bob: "[more]\nmemory-max = 9",
			want: []string{"memory-max = 5"}},
		"a section in vassals-include": {read: read{own: "env = A=1", include: "include = " + user + "\nini = :more"}, bob: "[more]\nmemory-max = 9",
			want: []string{"user's env = A=1", "memory-max = 7"}},
		"a user's file in vassals-include": {read: read{own: "env = A=1", include: "memory-max = 5\ninclude = " + user}, bob: "memory-max = 9",
			want: []string{"user's env = A=1", "user's memory-max = 9", "memory-max = 5"}},
		"a placeholder": {read: read{own: "include = " + user + "\nhook-pre-jail = exec:%(cmd)", operator: true}, bob: "set-placeholder = cmd=id",
			want: []string{"user's hook-pre-jail = exec:id"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &mapHost{
				foreign: map[string]bool{user: true, "/home/bob/path": true, "/home/bob": true},
				files: fstest.MapFS{
					user[1:]: {Data: []byte("[uwsgi]\n" + tc.bob + "\n")}, "home/bob/path": {Data: []byte("/etc/x\n")}, "home/bob/x.d/conf": {}, "home/bob/roots/conf": {},
					"root/key": {Data: []byte(theft)}, "root/key.ini": {Data: []byte("[uwsgi]\nenv = K=" + theft + "\n")},
					"etc/include.ini": {Data: []byte("[uwsgi]\n" + tc.include + "\n[more]\nmemory-max = 7\n")},
				},
			}
			src := operatorSource("[uwsgi]\n" + tc.own + "\n[more]\nmemory-max = 5\n")
			if src.Trust.Operator = tc.operator; !tc.operator {
				src.Trust.UID = 1000
			}
			opt := ReadOptions{Known: known, Operator: h}
			if tc.defaults != "" {
				opt.Before = []Layered{{Path: "/etc/liege/emperor.ini", Layer: vassal.Defaults, Text: []byte("[defaults]\n" + tc.defaults + "\n"), Section: "defaults"}}
			}
			if tc.include != "" {
				opt.Include = []string{"/etc/include.ini"}
			}
			f, ps := Read(src, h, opt)
			var got []string
			for _, s := range f.Settings {
				mark := ""
				if s.Tenant {
					mark = "user's "
				}
				if known(s.Key) || s.Key == "site" {
					got = append(got, fmt.Sprintf("%s%s = %s", mark, s.Key, s.Value))
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			if said := fmt.Sprint(ps); ps.Failed() != (tc.ask != "") || !strings.Contains(said, tc.ask) || strings.Contains(said, theft) {
				t.Errorf("problems %s, want %q", said, tc.ask)
			}
		})
	}
}

// A user's file that root's includes does not say how strict that is.
func TestStrictOfUser(t *testing.T) {
	for _, own := range []string{"strict = true\ninclude = /home/bob/app.ini", "include = /home/bob/app.ini\nstrict = true"} {
		h := &mapHost{foreign: map[string]bool{"/home/bob/app.ini": true}, files: fstest.MapFS{"home/bob/app.ini": {Data: []byte("[uwsgi]\nstrict = false\n")}}}
		if f, ps := Read(operatorSource("[uwsgi]\n"+own+"\n"), h, ReadOptions{}); !f.Strict || ps.Failed() {
			t.Errorf("%s: %v, %v", own, f.Strict, ps)
		}
	}
}

// What a user's file has read late comes before what the operator says last.
func TestEnforcedLast(t *testing.T) {
	for _, own := range []string{"memory-max = 1G", "inherit = /home/bob/more.ini", "declare-option = late=include=$1\nlate = /home/bob/more.ini"} {
		for _, inherit := range []bool{false, true} {
			h := &mapHost{foreign: map[string]bool{"/home/bob/more.ini": true}, files: fstest.MapFS{
				"home/bob/more.ini": {Data: []byte("[uwsgi]\nmemory-max = 1G\n")},
				"etc/enforced.ini":  {Data: []byte("[uwsgi]\nmemory-max = 64M\n")},
			}}
			src := operatorSource("[uwsgi]\n" + own + "\n")
			src.Trust = vassal.Trust{UID: 1000}
			opt := ReadOptions{Known: func(name string) bool { return name == "memory-max" }, Operator: h, Include: []string{"/etc/enforced.ini"}}
			if inherit {
				opt.Include, opt.Inherit = nil, opt.Include
			}
			f, ps := Read(src, h, opt)
			if last := f.Settings[len(f.Settings)-1]; ps.Failed() || last.Value != "64M" || len(f.Settings) < 2 {
				t.Errorf("%s, inherit %v: %v, %v", own, inherit, f.Settings, ps)
			}
		}
	}
}
