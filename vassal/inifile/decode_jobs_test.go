package inifile

import "testing"

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
