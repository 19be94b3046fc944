package metrics

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

func set(t *testing.T, own ...vassal.Metric) *Set {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/numbers", []byte("7 8\nx 10\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return New(&vassal.Metrics{Own: own}, dir, func() []Value { return []Value{{Name: "core.busy", OID: "5.3", Value: 3}} })
}

func TestMetrics(t *testing.T) {
	s := set(t, vassal.Metric{Name: "a", Initial: 5, OID: "100.1"}, vassal.Metric{Name: "b", Type: vassal.MetricGauge},
		vassal.Metric{Name: "sum", Collect: "sum", Children: []string{"a", "core.busy"}}, vassal.Metric{Name: "avg", Collect: "avg", Children: []string{"a", "core.busy"}},
		vassal.Metric{Name: "adder", Collect: "adder", Number: 100, Children: []string{"sum", "sum"}}, vassal.Metric{Name: "mul", Collect: "multiplier", Number: 2, Children: []string{"a"}},
		vassal.Metric{Name: "also", Type: vassal.MetricAlias, Alias: "a"}, vassal.Metric{Name: "busy", Type: vassal.MetricAlias, Alias: "core.busy"},
		vassal.Metric{Name: "f", Collect: "file", File: "numbers", Number: 1}, vassal.Metric{Name: "nofile", Collect: "file", File: "none"},
		vassal.Metric{Name: "noword", Collect: "file", File: "numbers", Number: 9}, vassal.Metric{Name: "nonumber", Collect: "file", File: "numbers", Number: 2},
		vassal.Metric{Name: "dir", Collect: "file", File: "."})
	for _, ok := range []bool{s.Add("a", 2), s.Mul("a", 3), s.Add("also", -1), s.Div("a", 2), s.Div("a", 0), s.Store("b", 9)} {
		if !ok {
			t.Error("a metric is not there")
		}
	}
	if s.Add("none", 1) || s.Add("sum", 1) || s.Add("core.busy", 1) || s.Add("busy", 1) || !s.Has("also") || s.Has("sum") {
		t.Error("what cannot be set was set")
	}
	want := "core.busy=3(0,5.3) a=10(0,100.1) b=9(1,) sum=13(0,) avg=6(0,) adder=126(0,) mul=20(0,) also=10(3,100.1) busy=3(3,5.3) f=8(0,) nofile=0(0,) noword=0(0,) nonumber=0(0,) dir=0(0,) "
	var got strings.Builder
	for _, v := range s.All() {
		fmt.Fprintf(&got, "%s=%d(%d,%s) ", v.Name, v.Value, v.Type, v.OID)
	}
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Error(d)
	}
	if _, ok := s.Get("none"); ok {
		t.Error("none is there")
	}
	var none *Set
	if _, ok := none.Get("a"); ok || none.Add("a", 1) || none.All() != nil || New(nil, "", nil) != nil {
		t.Error("no set has a metric")
	}
}

// TestDeep: metrics that refer to each other, or to very many, end.
func TestReached(t *testing.T) {
	s := set(t, vassal.Metric{Name: "a", Initial: 4}, vassal.Metric{Name: "b", Type: vassal.MetricAlias, Alias: "a"})
	two := int64(2)
	for _, c := range []struct {
		name  string
		value int64
		reset *int64
		want  bool
		then  int64
	}{
		{"a", 5, nil, false, 4}, {"b", 5, &two, false, 4}, {"a", 4, nil, true, 4}, {"none", 0, &two, false, 4}, {"b", -1, &two, true, 2}, {"a", 3, &two, false, 2},
	} {
		got := s.Reached(c.name, c.value, c.reset)
		if n, _ := s.Get("a"); got != c.want || n != c.then {
			t.Errorf("%+v: %t and %d", c, got, n)
		}
	}
}

func TestDeep(t *testing.T) {
	many := strings.Split(strings.TrimSuffix(strings.Repeat("m;", 1000), ";"), ";")
	s := set(t, vassal.Metric{Name: "m", Collect: "sum", Children: many}, vassal.Metric{Name: "x", Type: vassal.MetricAlias, Alias: "y"},
		vassal.Metric{Name: "y", Type: vassal.MetricAlias, Alias: "x"})
	_, _ = s.Get("m")
	if v, ok := s.Get("x"); v != 0 || ok || s.Add("x", 1) {
		t.Error("an alias of itself has a value")
	}
}

func TestConcurrent(t *testing.T) {
	s := set(t, vassal.Metric{Name: "a"})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				s.Add("a", 1)
				s.Mul("a", 1)
			}
		})
	}
	all.Wait()
	if v, _ := s.Get("a"); v != 8000 {
		t.Error(v)
	}
}
