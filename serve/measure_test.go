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
