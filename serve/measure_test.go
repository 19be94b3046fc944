package serve

import (
	"encoding/json"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/serve/metrics"
)

// metricUser is an application that is given the metrics.
type metricUser struct {
	*fake
	set *metrics.Set
}

func (m *metricUser) UseMetrics(s *metrics.Set) { m.set = s }

// TestMetrics: rules and the application count, and stats show it beside what
// the core counts.
func TestMetrics(t *testing.T) {
	testenv.Leaks(t)
	pool := &metricUser{fake: newFake(hello)}
	addrs, _, _ := startWith(t, fromFile(t, `metric = logins
metric = name=all,collector=sum,children=logins;worker.0.requests
metrics-no-cores = true
route = ^/login metricinc:logins,2
route-if = ishigher:${metric[logins]};3 return:429
`), pool)
	for _, want := range []string{"200 OK", "429 Too"} {
		if got := ask(t, addrs[0], "GET /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if !pool.set.Add("logins", 10) {
		t.Error("the application has no metric")
	}
	var st struct{ Metrics map[string]metrics.Value }
	if err := json.Unmarshal([]byte(ask(t, addrs[1], "")), &st); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"logins": 14, "all": 18, "worker.0.requests": 4, "worker.1.requests": 4, "worker.0.avg_response_time": 2000, "core.busy_workers": 1} {
		if got := st.Metrics[name].Value; got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	if _, ok := st.Metrics["worker.1.core.0.requests"]; ok || len(st.Metrics) < 25 {
		t.Errorf("%d metrics", len(st.Metrics))
	}
	hidden, _, _ := startWith(t, fromFile(t, "enable-metrics = true\nstats-no-metrics = true\n"), newFake(hello))
	if got := ask(t, hidden[1], ""); strings.Contains(got, `"metrics"`) {
		t.Error(got)
	}
}

// TestThresholds: a metric that has reached its value raises the alarm with the
// line's text, as often as its rate allows, and is reset.
func TestThresholds(t *testing.T) {
	s := newJobSite(t, `metric = logins
metric = name=high,initial_value=7
metric = name=low,initial_value=6
alarm = note cmd:echo "told $(cat)" >> notes
alarm-freq = 1
metric-threshold = key=logins,value=5,alarm=note,msg=many logins,reset=1
metric-alarm = key=high,value=7,alarm=note,rate=3600
alarm-metric = key=low,value=7,alarm=note
`)
	count := func(line string) int { return strings.Count(s.notes(), "told "+line+"\n") }
	s.until("that of a high one", func() bool { return count("high") == 1 })
	if got := s.eval("uwsgi.metric_inc('logins', 5)"); got != "True" {
		t.Errorf("%q", got)
	}
	s.until("that of one which is counted", func() bool { return count("many logins") == 1 })
	if got := s.eval("uwsgi.metric_get('logins')"); got != "1" {
		t.Errorf("it is %s, want 1", got)
	}
	if count("high") != 1 || count("low") != 0 {
		t.Error(s.notes())
	}
}
