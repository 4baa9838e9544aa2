{{ config(materialized='ephemeral') }}
-- depends_on: {{ ref('staging') }}
{{ may_fail('ephemeral', "select number from " ~ ref('staging')) }}
