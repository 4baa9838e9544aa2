{{ config(materialized="table") }}
select
    current_setting('TimeZone') as zone,
    strftime(timestamptz '2026-01-01 00:00:00+00', '%H:%M') as midnight
