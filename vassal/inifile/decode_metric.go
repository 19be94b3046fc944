package inifile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/route"
)

const (
	maxMetrics = 1024    // of one vassal, and as many thresholds
	maxRate    = 1 << 30 // seconds between two alarms of a threshold
)

// metric handles the lines about metrics. Any of them but those that leave
// something out turns them on, as in uWSGI.
func (d *decoder) metric(v value) bool {
	switch v.opt.Name {
	case "enable-metrics":
		d.measured = v.on
	case "metrics-no-cores":
		d.metrics.NoCores = v.on
	case "stats-no-metrics":
		d.metrics.Hidden = v.on
	case "metric":
		d.measured = true
		d.ownMetric(v)
	case "metric-threshold":
		d.measured = true
		d.threshold(v)
	default:
		return false
	}
	return true
}

// metricKeys are the words of a metric line.
const metricKeys = "name oid type initial_value collector freq arg1 arg2 arg3 arg1n arg2n arg3n children alias reset_after_push"

// ownMetric reads NAME, or name=x,type=gauge and so on.
func (d *decoder) ownMetric(v value) {
	m := vassal.Metric{Name: v.Value, At: v.Origin}
	if strings.Contains(v.Value, "=") {
		kv, err := route.Keyvals(v.Value, metricKeys)
		if err == nil {
			err = readMetric(&m, kv)
		}
		if err != nil {
			d.err(vassal.CodeBadMetric, v.Setting, err.Error(), "metric = name=logins,type=counter")
			return
		}
	}
	if !metricName(m.Name) {
		d.err(vassal.CodeBadMetric, v.Setting, fmt.Sprintf("%q is no name of a metric: letters, digits, dots, dashes and underscores", clip(m.Name)), "metric = logins")
		return
	}
	if path.IsAbs(m.File) {
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: m.File, Target: m.File, Access: vassal.ReadOnly, Key: v.Key, At: v.Origin})
	}
	d.metrics.Own = append(d.metrics.Own, m)
}

// thresholdKeys are the words of a line about a metric's value.
const thresholdKeys = "key value alarm msg rate reset"

// threshold reads key=NAME,value=N and what is to happen then.
func (d *decoder) threshold(v value) {
	const example = "metric-alarm = key=logins,value=100,alarm=down"
	kv, err := route.Keyvals(v.Value, thresholdKeys)
	if err == nil && (kv["key"] == "" || kv["value"] == "") {
		err = fmt.Errorf("%q lacks a key or a value", clip(v.Value))
	}
	t := vassal.Threshold{Metric: kv["key"], Alarm: kv["alarm"], Text: kv["msg"], At: v.Origin}
	var rate, reset int64
	for _, n := range []struct {
		key string
		to  *int64
	}{{"value", &t.Value}, {"rate", &rate}, {"reset", &reset}} {
		if text := kv[n.key]; text != "" && err == nil {
			if *n.to, err = strconv.ParseInt(text, 10, 64); err != nil {
				err = fmt.Errorf("%s=%.40s is not a number", n.key, text)
			}
		}
	}
	if err == nil && (rate < 0 || rate > maxRate) {
		err = fmt.Errorf("rate=%d is not between 0 and %d seconds", rate, maxRate)
	}
	if err != nil {
		d.err(vassal.CodeBadMetric, v.Setting, err.Error(), example)
		return
	}
	if kv["reset"] != "" {
		t.Reset = &reset
	}
	if t.Every = time.Duration(rate) * time.Second; t.Alarm != "" {
		d.raises = append(d.raises, raising{t.Alarm, v.Setting})
	}
	d.metrics.Thresholds = append(d.metrics.Thresholds, t)
}

// metricName reports whether s may name a metric, as in uWSGI.
func metricName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// readMetric reads the words of a metric.
func readMetric(m *vassal.Metric, kv map[string]string) error {
	m.Name, m.OID, m.Collect, m.File, m.Alias = kv["name"], kv["oid"], kv["collector"], kv["arg1"], kv["alias"]
	for _, n := range []struct {
		key string
		to  *int64
	}{{"initial_value", &m.Initial}, {"arg1n", &m.Number}} {
		if text := kv[n.key]; text != "" {
			var err error
			if *n.to, err = strconv.ParseInt(text, 10, 64); err != nil {
				return fmt.Errorf("%s=%.40s is not a number", n.key, text)
			}
		}
	}
	if text := kv["children"]; text != "" {
		m.Children = strings.Split(text, ";")
	}
	i := slices.Index([]string{"counter", "gauge", "absolute", "alias"}, kv["type"])
	if i < 0 && kv["type"] != "" {
		return fmt.Errorf("type=%.40s: want counter, gauge, absolute or alias", kv["type"])
	}
	m.Type = vassal.MetricType(max(i, 0))
	return wholeMetric(m, kv)
}

// wholeMetric looks at what belongs together.
func wholeMetric(m *vassal.Metric, kv map[string]string) error {
	switch m.Collect {
	case "manual":
		m.Collect = ""
	case "":
	case "file":
		if m.File == "" {
			return fmt.Errorf("collector=file needs arg1=FILE")
		}
	case "sum", "avg", "adder", "multiplier":
		if len(m.Children) == 0 {
			return fmt.Errorf("collector=%s needs children=a;b", m.Collect)
		}
	default:
		return fmt.Errorf("collector=%.40s is not there: manual, file, sum, avg, adder and multiplier are", m.Collect)
	}
	switch {
	case m.Type == vassal.MetricAlias && m.Alias == "":
		return fmt.Errorf("type=alias needs alias=METRIC")
	case kv["reset_after_push"] != "":
		return fmt.Errorf("reset_after_push: metrics are not pushed")
	}
	return nil
}

// finishMetrics looks at the metrics as a whole, and at the rules about them.
func (d *decoder) finishMetrics() {
	all := d.metrics.Own
	d.atMost("metrics", len(all), maxMetrics)
	known := map[string]bool{}
	for i := range all {
		m := &all[i]
		s := Setting{Key: "metric", Origin: m.At}
		if known[m.Name] {
			d.err(vassal.CodeBadMetric, s, fmt.Sprintf("a second metric is called %q", clip(m.Name)), "")
		}
		for _, other := range append(slices.Clone(m.Children), m.Alias) {
			if other != "" && !known[other] && !builtIn(other) {
				d.err(vassal.CodeBadMetric, s, fmt.Sprintf("there is no metric %q above this line", clip(other)), "metric = "+clip(other))
			}
		}
		known[m.Name] = true
	}
	d.atMost("thresholds", len(d.metrics.Thresholds), maxMetrics)
	for i := range d.metrics.Thresholds {
		t := &d.metrics.Thresholds[i]
		s := Setting{Key: "metric-threshold", Origin: t.At}
		switch own := slices.IndexFunc(all, func(m vassal.Metric) bool { return m.Name == t.Metric }); {
		case own < 0 && !builtIn(t.Metric):
			d.err(vassal.CodeBadMetric, s, fmt.Sprintf("there is no metric %q", clip(t.Metric)), "metric = "+clip(t.Metric))
		case t.Reset != nil && (own < 0 || all[own].Collect != ""):
			d.err(vassal.CodeBadMetric, s, fmt.Sprintf("reset: the metric %q is counted, and not set", clip(t.Metric)), "")
		}
	}
	if d.measured {
		d.cfg.App.Metrics = &d.metrics
	}
}

// builtIn reports whether a metric is one of uWSGI's own.
func builtIn(name string) bool {
	for _, p := range [...]string{"core.", "worker.", "socket."} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return name == "rss_size" || name == "vsz_size"
}

// metricRule checks the metrics that a rule names.
func (d *decoder) metricRule(r *vassal.Rule) {
	s := Setting{Key: r.Key, Origin: r.At}
	own := func(name string) bool {
		return slices.ContainsFunc(d.metrics.Own, func(m vassal.Metric) bool { return m.Name == name })
	}
	if name, _, _ := strings.Cut(r.ActionArg, ","); strings.HasPrefix(r.Action, "metric") && !own(name) {
		d.err(vassal.CodeBadMetric, s, fmt.Sprintf("%s: there is no metric %q that can be set", r.Action, clip(name)), "metric = "+clip(name))
	}
	for _, text := range [...]string{r.Arg, r.ActionArg} {
		for name := range strings.SplitSeq(text, "${metric[") {
			name, _, ok := strings.Cut(name, "]}")
			if ok && strings.Contains(text, "${metric["+name+"]}") && !own(name) && (!builtIn(name) || !d.measured) {
				d.err(vassal.CodeBadMetric, s, fmt.Sprintf("there is no metric %q", clip(name)), "metric = "+clip(name)+", or enable-metrics = true")
			}
		}
	}
}
