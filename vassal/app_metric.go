package vassal

import "time"

// Metrics are uWSGI's metrics: numbers with names.
type Metrics struct {
	Own     []Metric `json:"own,omitempty"`      // metric lines
	NoCores bool     `json:"no_cores,omitempty"` // metrics-no-cores
	Hidden  bool     `json:"hidden,omitempty"`   // stats-no-metrics

	Thresholds []Threshold `json:"thresholds,omitempty"` // metric-threshold lines
}

// Threshold says what happens when a metric has a value or more.
type Threshold struct {
	Metric string        `json:"metric"`
	Value  int64         `json:"value"`
	Reset  *int64        `json:"reset,omitempty"` // what the metric becomes; nil: it stays
	Alarm  string        `json:"alarm,omitempty"` // that is raised; empty: none
	Text   string        `json:"text,omitempty"`  // of the alarm; empty: the metric's name
	Every  time.Duration `json:"every,omitempty"` // least time between two alarms of it
	At     Origin        `json:"at"`
}

// Metric is one that the file defines.
type Metric struct {
	Name     string     `json:"name"`
	OID      string     `json:"oid,omitempty"`
	Type     MetricType `json:"type"`
	Initial  int64      `json:"initial,omitempty"`
	Collect  string     `json:"collect,omitempty"`  // how its value comes about; empty: rules and the app set it
	File     string     `json:"file,omitempty"`     // of the collector file
	Number   int64      `json:"number,omitempty"`   // of the collectors file (which word), adder, multiplier
	Children []string   `json:"children,omitempty"` // of the others: metrics
	Alias    string     `json:"alias,omitempty"`    // another name of this metric
	At       Origin     `json:"at"`
}

// MetricType is what a metric's number means, with uWSGI's value for it.
type MetricType int

// The types.
const (
	MetricCounter MetricType = iota
	MetricGauge
	MetricAbsolute
	MetricAlias
)
