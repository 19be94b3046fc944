package inifile

import (
	"fmt"
	"strings"
	"testing"
)

// TestCurlCron: a URL is one word for the shell, whatever is in it.
func TestCurlCron(t *testing.T) {
	cfg, ps := decodeText("wsgi-file = a.py\ncurl-cron = 5 -1 -1 -1 -1 http://a/?b='c'&d=$e;f\ncron-curl = -5 -1 -1 -1 -1 http://g/\n")
	if len(ps) > 0 || cfg.App.Jobs == nil || len(cfg.App.Jobs.Crons) != 2 {
		t.Fatalf("%v %+v", ps, cfg.App.Jobs)
	}
	k := cfg.App.Jobs.Crons[0]
	if want := `exec curl -sS --max-time 30 -- 'http://a/?b='\''c'\''&d=$e;f'`; k.Command != want || k.Minute != 5 {
		t.Errorf("%+v, want %s", k, want)
	}
	if k = cfg.App.Jobs.Crons[1]; k.Command != "exec curl -sS --max-time 30 -- 'http://g/'" || k.Minute != -5 {
		t.Errorf("%+v", k)
	}
	if _, ps = decodeText("wsgi-file = a.py\ncurl-cron = http://a/\n"); !ps.Failed() {
		t.Error("a URL without a time is no error")
	}
}

// TestMuleWithoutValue: each such line is a mule that waits for messages, as
// in uWSGI, and one counts among the numbered ones.
func TestMuleWithoutValue(t *testing.T) {
	cfg, ps := decodeText("wsgi-file = a.py\nmule\nmule =\nmule = jobs.py\nmule = true\nmule = no\nfarm = all:1,2,4\n")
	if len(ps) > 0 || cfg.App.Jobs == nil {
		t.Fatalf("%v %+v", ps, cfg.App.Jobs)
	}
	got := ""
	for _, m := range cfg.App.Jobs.Mules {
		got += fmt.Sprintf("%d:%s ", m.At.Line, m.Run)
	}
	if want := "4: 5: 6:jobs.py 7: "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestAlarms: what an alarm line means, and what is wrong with one.
func TestAlarms(t *testing.T) {
	for _, c := range []struct{ lines, want, wrong string }{
		{"alarm = a log:", "{a  0 0}", ""},
		{"alarm = a  cmd: ./tell me", "{a ./tell me 0 0}", ""},
		{"alarm = a signal:17", "{a  17 0}", ""},
		{"mules = 2\nalarm = a mule:2", "{a  0 2}", ""},
		{"alarm = a curl:http://h/?a='b';method=POST;timeout=5", `{a exec curl -sS --max-time 5 -X POST -H 'Content-Type: text/plain' --data-binary @- -- 'http://h/?a='\''b'\''' 0 0}`, ""},
		{"alarm = a curl:https://h/", "{a exec curl -sS --max-time 30 -X PUT -H 'Content-Type: text/plain' --data-binary @- -- 'https://h/' 0 0}", ""},
		{"alarm = a curl:smtp://h/;mail_to=b", "", "with the keys method and timeout"},
		{"alarm = a curl:http://h/;method=P OST", "", "with the keys method and timeout"},
		{"alarm = a xmpp:x", "{a  0 0}", "no alarms of type"},
		{"alarm = a", "", "no name and TYPE"},
		{"alarm = cmd:x", "", "no name and TYPE"},
		{"alarm = a cmd:", "", "names no command"},
		{"alarm = a signal:256", "", "is no signal"},
		{"alarm = a mule:0", "", "no number of a mule"},
		{"mules = 1\nalarm = a mule:2", "{a  0 2}", "names mule 2; there are 1"},
		{"alarm-backlog = none", "", `no alarm is called "none"`},
		{"alarm-segfault = none", "", `no alarm is called "none"`},
		{"alarm = a log:\nsegfault-alarm = a", "{a  0 0}", ""},
		{"alarm = a log:\nroute-run = alarm:a down ${REQUEST_URI}\nalarm-backlog = a", "{a  0 0}", ""},
		{"route-run = alarm:b down", "", `no alarm is called "b"`},
		{"route-run = alarm:b", "", "want NAME TEXT"},
		{"hook-accepting = alarm:c up", "", `no alarm is called "c"`},
		{"alarm = a log:\nalarm-msg-size = 70000", "{a  0 0}", "it is 65536"},
	} {
		cfg, ps := decodeText("wsgi-file = a.py\n" + c.lines + "\n")
		got := ""
		if cfg.App.Jobs != nil {
			for _, a := range cfg.App.Jobs.Alarms {
				n := 0
				if a.Signal != nil {
					n = *a.Signal
				}
				got += fmt.Sprint(struct {
					name, command string
					signal, mule  int
				}{a.Name, a.Command, n, a.Mule})
			}
		}
		said := ""
		for _, p := range ps {
			said += p.Message + "; "
		}
		if got != c.want || c.wrong == "" && len(ps) > 0 || !strings.Contains(said, c.wrong) {
			t.Errorf("%s: %s, want %s; %s, want %q", c.lines, got, c.want, said, c.wrong)
		}
	}
}
