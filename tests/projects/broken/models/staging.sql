{{ config(materialized='view', event_time='day') }}
{{ may_fail('view', "select number, cast(day as date) as day from " ~ ref('numbers')) }}
