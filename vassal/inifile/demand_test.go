package inifile

import (
	"testing"

	"liege/vassal"
)

func TestOnDemandOfEmperor(t *testing.T) {
	for _, tt := range []struct{ lines, key, value, code string }{
		{"emperor-on-demand-extension = .socket", OnDemandExtension, ".socket", ""},
		{"emperor-on-demand-exec = /usr/bin/ask a\nemperor-on-demand-dir = /run/s\nemperor-on-demand-ext = .socket", OnDemandExtension, ".socket", ""},
		{"emperor-on-demand-ext = .socket\nemperor-on-demand-exec = /usr/bin/ask", OnDemandExtension, ".socket", ""},
		{"emperor-on-demand-exec = /usr/bin/ask a b", OnDemandExec, "/usr/bin/ask a b", ""},
		{"emperor-on-demand-exec = ask", "", "", vassal.CodeBadValue},
		{"emperor-on-demand-exec = /bin/echo $(id)", "", "", vassal.CodeRefused},
		{"emperor-on-demand-ext = /etc/x", "", "", vassal.CodeBadValue},
		{"emperor-on-demand-ext = .ini", "", "", vassal.CodeBadValue},
		{"emperor-on-demand-dir = run", "", "", vassal.CodeBadValue},
		{"emperor-on-demand-dir =", "", "", vassal.CodeBadValue},
	} {
		c, ps := DecodeEmperor("emperor.ini", []byte("[uwsgi]\n"+tt.lines+"\n"))
		code := ""
		if p := ps.First(); p != nil {
			code = p.Code
		}
		if c.OnDemand.Key != tt.key || c.OnDemand.Value != tt.value || code != tt.code {
			t.Errorf("%s: %+v, %q; want %s %s %s", tt.lines, c.OnDemand, code, tt.key, tt.value, tt.code)
		}
	}
}

// TestOnDemandBeside: a socket that is named beside the file wakes the vassal,
// which sleeps again only as uWSGI's would.
func TestOnDemandBeside(t *testing.T) {
	pol := Policy{OnDemand: &OnDemand{Address: "127.0.0.1:3031", Key: OnDemandExtension, Origin: vassal.Origin{File: "shop.ini.socket", Line: 1}}}
	for _, tt := range []struct {
		lines  string
		demand bool
		sleep  int // seconds
		idle   int // of the workers
	}{
		{"", true, 0, 0},
		{"idle = 60", true, 0, 60},
		{"idle = 60\ndie-on-idle = true", true, 60, 0},
		{"on-demand = true", true, 300, 0},
		{"on-demand = true\nidle = 0", true, 0, 0},
		{"on-demand = false", false, 0, 0},
	} {
		f, _ := Read(Source{Path: "shop.ini", Text: []byte("[uwsgi]\nuid = www-data\nwsgi-file = app.py\n" + tt.lines + "\n"), Trust: vassal.Trust{Operator: true}}, &mapHost{}, ReadOptions{Known: Known})
		c, ps := Decode(f, pol)
		if ps.Failed() {
			t.Errorf("%s: %v", tt.lines, ps)
		}
		if len(c.Listen) != 1 || c.Listen[0].Protocol != vassal.UWSGI || c.Restart.OnDemand != tt.demand ||
			int(c.App.Sleep.Seconds()) != tt.sleep || int(c.App.Workers.Cheaper.Idle.Seconds()) != tt.idle {
			t.Errorf("%s: listens %v, on demand %t, sleeps after %v, workers idle %v", tt.lines, c.Listen, c.Restart.OnDemand, c.App.Sleep, c.App.Workers.Cheaper.Idle)
		}
	}
}
